"""The boards of a leaderboard: which rows belong together, and a sentence that sums each board up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from robustbench_gkl.report.names import cut, short_datasets
from robustbench_gkl.results import Record, tiers
from robustbench_gkl.results.board_rows import BoardSetting, rows_by_board
from robustbench_gkl.results.published_rows import PUBLISHED

_LONGEST = 40
"""Letters of a model's name in a sentence."""
_UNDER = {
    tiers.CLEAN.name: "",
    tiers.AUTOATTACK.name: " under AutoAttack",
    tiers.TARGETED.name: " under targeted attacks",
    tiers.GRADIENT.name: " under gradient attacks",
    tiers.OTHER.name: " under other attacks",
    tiers.RAND.name: " under AutoAttack for randomised models",
    tiers.AVERAGING.name: " under averaging attacks",
    tiers.REFERENCE.name: " under the reference attack",
    tiers.REFERENCE_RANDOMISED.name: " under the reference attack",
}


@dataclass(frozen=True, eq=False)
class Board:
    """One board of a leaderboard.

    Attributes:
        at: what its rows share.
        data: the data set as it is called in little room.
        frame: the rows, in the leaderboard's order.
    """

    at: BoardSetting
    data: str
    frame: pd.DataFrame

    @property
    def title(self) -> str:
        """Data set and threat, in little room."""
        return ", ".join(filter(None, (self.data, self.where)))

    @property
    def where(self) -> str:
        """The board but for its data set."""
        split = "" if self.at.split in ("", "test") else f"{self.at.split} split"
        samples = f"samples {self.at.samples}" if self.at.samples else ""
        return ", ".join(filter(None, (split, samples, "clean accuracy" if self.clean else self.at.threat)))

    @property
    def clean(self) -> bool:
        """Whether it is the board of clean accuracy."""
        return self.at.threat == tiers.CLEAN.name

    @property
    def size(self) -> str:
        """How many models, and on how many images."""
        images = f"{self.at.n:,} {self.at.split} images".replace("  ", " ")
        return f"{len(self.ours):,} {_noun(self.frame, len(self.ours))}, {images}"

    @property
    def key(self) -> str:
        """What sets the board apart from all others."""
        return f"{self.at.dataset} {self.at.threat} {self.at.split} {self.at.samples} {self.at.n}"

    @cached_property
    def ours(self) -> pd.DataFrame:
        """The rows but for published ones."""
        return self.frame[self.frame["checks"] != PUBLISHED] if "checks" in self.frame else self.frame

    @property
    def own_columns(self) -> pd.DataFrame:
        """The rows without the columns that a heading of the board has, and without those of other boards alone."""
        shared = [key for key in ("dataset", "split", "samples", "n") if key in self.frame]
        rows = self.frame.drop(columns=[key for key in shared if self.frame[key].nunique(dropna=False) == 1])
        return rows.loc[:, rows.notna().any() | (rows.columns == "rank")]

    def holds(self, record: Record) -> bool:
        """Return whether a record was made on this board."""
        return str(record.threat) == self.at.threat and self.same_images(record)

    def same_images(self, record: Record) -> bool:
        """Return whether a record was made on the images of this board."""
        data, at = record.data, self.at
        alike = (data.dataset, data.split, data.n) == (at.dataset, at.split, at.n)
        return alike and data.sha256.startswith(at.samples)

    @cached_property
    def summary(self) -> str:
        """Who leads, by how much, whether the next can be told apart, and the certified bracket."""
        return _summary(self.ours) if {"rank", "tier", "worst_case_acc"} <= set(self.frame) else ""


def boards_of(frame: pd.DataFrame) -> list[Board]:
    """Return the boards of a leaderboard, that of most models first, of equal ones clean accuracy last."""
    found = rows_by_board(frame)
    short = short_datasets(at.dataset for at in found)
    boards = [Board(at, short[at.dataset], frame.iloc[places]) for at, places in found.items()]
    return sorted(boards, key=lambda board: (-len(board.ours), board.clean))


def _noun(rows: pd.DataFrame, many: int) -> str:
    one, more = ("family", "families") if "seeds" in rows else ("model", "models")
    return one if many == 1 else more


def _summary(rows: pd.DataFrame) -> str:
    ranked = rows[rows["rank"].notna()]
    if ranked.empty:
        many = f"None of {len(rows)}" if len(rows) > 1 else "Its one"
        return f"{many} {_noun(rows, len(rows))} has {'a' if len(rows) > 1 else 'no'} rank yet."
    tier = min(ranked["tier"], key=tiers.PLACES.__getitem__)
    best = ranked[ranked["tier"] == tier].sort_values("worst_case_acc", ascending=False, kind="stable")
    return " ".join(filter(None, (_lead(best, tier), _bracket(best.iloc[0]), _rest(rows, ranked, best))))


def _lead(best: pd.DataFrame, tier: str) -> str:
    """Return who leads a tier, by how much, and whether the next can be told apart.

    Nobody but the first can be significantly better than the second by accuracy, whose rank therefore says so.
    """
    first = best.iloc[0]
    name = cut(first["model"], _LONGEST)
    kind = "clean" if tier == tiers.CLEAN.name else "robust"
    figure = f"{first['worst_case_acc']:.2f} % {kind} accuracy{_UNDER[tier]}"
    if len(best) == 1:
        return f"{name} has {figure}; there is none to compare it with."
    second = best.iloc[1]
    ahead = round(first["worst_case_acc"] - second["worst_case_acc"], 2)
    other = cut(second["model"], _LONGEST)
    margin = f"{ahead:.2f} points ahead of {other}" if ahead else f"the same as {other}"
    if first["rank"] != 1:
        return f"{name} stands first here with {figure}, {margin}."
    if second["rank"] > 1:
        return f"{name} leads with {figure}, {margin}: significantly better."
    ties = int((best["rank"] == 1).sum())
    more = f" ({ties} share rank 1)" if ties > 2 else ""
    return f"{name} leads with {figure}, {margin}: too little to tell the two apart{more}."


def _bracket(first: pd.Series) -> str:
    if pd.isna(first.get("certified_acc")):
        return ""
    low, high = first["certified_acc"], first["worst_case_acc"]
    if low == high:
        return f"On these images its robust accuracy is {low:.2f} %: what stands is certified."
    return f"On these images its robust accuracy is between {low:.2f} % (certified) and {high:.2f} % (under attack)."


def _rest(rows: pd.DataFrame, ranked: pd.DataFrame, best: pd.DataFrame) -> str:
    weaker, unranked = len(ranked) - len(best), len(rows) - len(ranked)
    told = [
        f"{weaker} {'stands in a weaker tier' if weaker == 1 else 'stand in weaker tiers'}" if weaker else "",
        f"{unranked} {'has' if unranked == 1 else 'have'} no rank" if unranked else "",
    ]
    text = " and ".join(filter(None, told))
    return f"Of the others, {text}." if text else ""
