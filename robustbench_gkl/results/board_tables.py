"""Leaderboards as people read them: a table for each board, under its setting. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Number
from typing import Any

import pandas as pd

from robustbench_gkl.results.board_rows import BoardSetting, rows_by_board
from robustbench_gkl.results.published_rows import PUBLISHED
from robustbench_gkl.results.tiers import CLEAN, PLACES

_FIGURES = (
    *("rank", "model", "clean_acc", "worst_case_acc", "mean_corruption_acc", "spread", "seeds", "interval"),
    *("certified_acc", "certified_interval", "checks"),
)
_FACTS = ("tier", "teacher", "loss", "arch", "weights", "engine", "attack_seeds", "params", "eval_seconds", "lacks")
_ENDS = {"interval": ("ci_low", "ci_high"), "certified_interval": ("certified_low", "certified_high")}
_HEADINGS = {
    "clean_acc": "clean %",
    "worst_case_acc": "robust %",
    "mean_corruption_acc": "mean %",
    "interval": "95 % interval",
    "certified_acc": "certified %",
    "certified_interval": "certified 95 %",
    "attack_seeds": "attack seeds",
    "eval_seconds": "seconds",
    "lacks": "no rank for want of",
    **{f"severity_{number}": f"severity {number}" for number in range(1, 6)},
}

_NO_RANK = "no rank"
_Facts = Mapping[Hashable, Any]


@dataclass(frozen=True)
class BoardRow:
    """A row as people see it.

    Attributes:
        cells: the text of each column of its board.
        ranked: whether it has a rank.
        lacks: what it lacks for one.
        best: the columns in which no figure of the board is better.
    """

    cells: Mapping[str, str]
    ranked: bool
    lacks: str
    best: frozenset[str]


@dataclass(frozen=True)
class BoardSection:
    """Rows of one tier, under its name; without one where the title has it, or where the rows are in another order."""

    name: str
    rows: tuple[BoardRow, ...]


@dataclass(frozen=True)
class BoardTable:
    """One board.

    Attributes:
        dataset: which it is of.
        setting: samples, threat, and the tier if all rows are of one.
        columns: those in which a row has something, in order.
        attacks: those of them that are accuracies under attacks, or at severities.
        numeric: those of them that are numbers.
        sections: its rows.
        note: what is to be said of its published rows.
    """

    dataset: str
    setting: str
    columns: tuple[str, ...]
    attacks: tuple[str, ...]
    numeric: frozenset[str]
    sections: tuple[BoardSection, ...]
    note: str


def heading(column: str) -> str:
    """Return what people see above a column; attacks and most others go by their names."""
    return _HEADINGS.get(column, column)


def board_tables(frame: pd.DataFrame) -> list[BoardTable]:
    """Return a table for each board of a leaderboard, in the order in which they and their rows come.

    Published rows stand on the board of most samples among those of their data set and threat. The best figures are
    those of ranked rows: robust accuracy in the strongest tier, whose rows were attacked alike; clean accuracy in all.

    Args:
        frame: from :func:`robustbench_gkl.results.leaderboard` or
            :func:`robustbench_gkl.results.corruptions.corruption_leaderboard`; rows may be left out or sorted anew.
    """
    frame = _with_intervals(frame)
    facts = frame.to_dict("records")
    texts = {str(name): _texts(frame[name]) for name in frame}
    numeric = frozenset(str(name) for name in frame if pd.api.types.is_numeric_dtype(frame[name])) | _ENDS.keys()
    return [_table(board, here, facts, texts, numeric) for board, here in rows_by_board(frame).items()]


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with both ends of an interval in one column of text."""
    for name, (low, high) in _ENDS.items():
        if low in frame and high in frame:
            pairs = zip(frame[low], frame[high], strict=True)
            texts = [None if pd.isna(a) or pd.isna(b) else f"{a:.1f} to {b:.1f}" for a, b in pairs]
            joined = pd.Series(texts, index=frame.index, dtype=object)
            frame = frame.drop(columns=[low, high]).assign(**{name: joined})
    return frame


def _texts(column: pd.Series[Any]) -> list[str]:
    """Return the texts of a column's cells: empty where there is nothing."""
    absent = column.isna()
    return ["" if no else cell_text(str(column.name), value) for value, no in zip(column, absent, strict=True)]


def cell_text(column: str, value: object) -> str:
    """Return a value as it is shown: thousands apart, two decimals of what is not whole, no control characters."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(part if part.isprintable() else "\ufffd" for part in value)
    if isinstance(value, float):
        return f"{value:,.1f}" if column.endswith("seconds") else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, Number) and not isinstance(value, bool) else cell_text(column, str(value))


def _table(
    board: BoardSetting,
    here: Sequence[int],
    facts: Sequence[_Facts],
    texts: Mapping[str, Sequence[str]],
    numeric: frozenset[str],
) -> BoardTable:
    values = [facts[number] for number in here]
    sections, tiers = _sections(values)
    filled = {name for name, cells in texts.items() if any(cells[number] for number in here)} | {"rank", "model"}
    filled -= {*BoardSetting._fields, *(() if len(sections) == 1 < len(tiers) else ("tier",))}
    if board.threat == CLEAN.name and all(texts["clean_acc"][i] == texts["worst_case_acc"][i] for i in here):
        filled -= {"worst_case_acc"}  # without an attack it is no other figure
    attacks = tuple(name for name in texts if name in filled and name not in (*_FIGURES, *_FACTS))
    columns = tuple(name for name in (*_FIGURES, *attacks, *_FACTS) if name in filled)
    rows = [
        BoardRow(
            {name: texts[name][number] for name in columns},
            not pd.isna(facts[number].get("rank")),
            texts["lacks"][number] if "lacks" in texts else "",
            best,
        )
        for number, best in zip(here, _best(values), strict=True)
    ]
    return BoardTable(
        dataset=cell_text("dataset", board.dataset),
        setting=board.text + (f", tier {tiers[0]}" if len(tiers) == 1 and tiers != [CLEAN.name] else ""),
        columns=columns,
        attacks=attacks,
        numeric=numeric & set(columns),
        sections=tuple(BoardSection(name, tuple(rows[place] for place in places)) for name, places in sections),
        note=_note(values),
    )


def _sections(rows: Sequence[_Facts]) -> tuple[list[tuple[str, list[int]]], list[str]]:
    """Return names and places of the sections, and the tiers that there are.

    Published rows go with those above them. Rows in another order, with a tier or what has no rank in between, are one.
    """
    names: list[str] = []
    for row in rows:
        if _is_published(row):
            names.append(names[-1] if names else "")
        else:
            names.append(_NO_RANK if pd.isna(row.get("rank")) else str(row.get("tier", "")))
    first = next((name for name in names if name), "")
    names = [name or first for name in names]
    groups = [(name, list(places)) for name, places in groupby(range(len(rows)), key=names.__getitem__)]
    tiers = [name for name in dict.fromkeys(names) if name not in (_NO_RANK, "")]
    if len(groups) > len(set(names)) or _NO_RANK in [name for name, _ in groups[:-1]]:
        return [("", list(range(len(rows))))], tiers
    named = {_NO_RANK: _NO_RANK} | ({name: f"tier {name}" for name in tiers} if len(tiers) > 1 else {})
    return [(named.get(name, ""), places) for name, places in groups], tiers


def _best(rows: Sequence[_Facts]) -> list[frozenset[str]]:
    """Return the columns in which the figure of each row is the best."""
    ranked = {number: row for number, row in enumerate(rows) if not pd.isna(row.get("rank"))}
    places = {number: PLACES.get(str(row.get("tier")), 0) for number, row in ranked.items()}
    front = min(places.values(), default=0)
    strongest = {number: row for number, row in ranked.items() if places[number] == front}
    best: list[set[str]] = [set() for _ in rows]
    for column, rivals in (("clean_acc", ranked), ("worst_case_acc", strongest), ("mean_corruption_acc", ranked)):
        figures = {number: row[column] for number, row in rivals.items() if not pd.isna(row.get(column))}
        highest = max(figures.values(), default=None)
        for number, figure in figures.items():
            best[number] |= {column} if figure == highest else set()
    return list(map(frozenset, best))


def _note(rows: Sequence[_Facts]) -> str:
    images = sorted({row["n"] for row in rows if _is_published(row)})
    on = " or ".join(f"{n:,}" for n in images)
    return f"published: measured elsewhere, on {on} images; without a rank" if images else ""


def _is_published(row: _Facts) -> bool:
    return bool(row.get("checks") == PUBLISHED)
