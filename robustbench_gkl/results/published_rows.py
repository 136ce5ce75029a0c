"""Published results beside ours on a leaderboard: those of RobustBench's models and of the GKL paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_gkl.core.exact import format_fraction, parse_fraction
from robustbench_gkl.results.published_models import published_models
from robustbench_gkl.results.tiers import AUTOATTACK

PUBLISHED = "published"
"""What stands in the column ``checks`` of a published row."""
_PAPER = Path(__file__).parent / "published.csv"
_IMAGES = {"imagenet": 5_000}
"""Test images behind a published figure where they are not CIFAR's 10,000: RobustBench takes 5,000 of ImageNet's."""


def published_datasets() -> list[str]:
    """Return the data sets that there are published results on."""
    return sorted(_published()["dataset"].unique())


def with_published(table: pd.DataFrame, *, dataset: str | None = None, eps: str | None = None) -> pd.DataFrame:
    """Return the leaderboard with published results put into their places.

    RobustBench's models (:mod:`robustbench_gkl.results.published_models`) stand on the boards of their data set, norm
    and radius; the rows of the GKL paper (sources in ``results/published.csv``) are those of the table's data sets.
    Each stands where its robust accuracy, the best known, puts it among the models that have completed AutoAttack on
    the board of most samples; rows without a board come last. They have ``published`` in place of checks and neither
    rank nor tier: they were measured elsewhere, on other samples, by other code.

    Args:
        table: from :func:`robustbench_gkl.results.leaderboard`. One without rows gets all published results.
        dataset: results on this data set, whatever is in the table.
        eps: only those at this radius.
    """
    rows = _selected(_published(), table, dataset, eps)
    columns = list(table.columns)
    if "autoattack" not in columns:
        columns.insert(columns.index("worst_case_acc"), "autoattack")
    rows = rows.sort_values(["dataset", "threat", "worst_case_acc"], ascending=[True, True, False], kind="stable")
    places = [*range(len(table)), *(_place(table, row) for row in rows.to_dict("records"))]
    rows = rows.reindex(columns=columns).astype(
        {name: "Int64" for name in ("rank", "n", "params", "seeds", "attack_seeds") if name in columns}
    )
    joined = pd.concat([table, rows], ignore_index=True)[columns]
    joined = joined.iloc[sorted(range(len(joined)), key=places.__getitem__)].reset_index(drop=True)
    joined.attrs = dict(table.attrs)
    return joined


def _published() -> pd.DataFrame:
    """Return all published results in a leaderboard's columns; ``zoo`` is True for those of RobustBench."""
    paper = pd.read_csv(_PAPER)
    paper = paper.assign(model=paper["method"] + " (" + paper["setting"] + ")", worst_case_acc=paper["autoattack"])
    zoo = pd.DataFrame(
        {
            "model": found.name,
            "arch": found.architecture,
            "dataset": found.dataset,
            "threat": f"{found.norm} {format_fraction(found.eps)}",
            "clean_acc": found.clean,
            "autoattack": found.autoattack,
            "worst_case_acc": found.best_known,
        }
        for found in published_models()
        if found.eps is not None
    )
    rows = pd.concat([paper.assign(zoo=False), zoo.assign(zoo=True)], ignore_index=True)
    return rows.assign(checks=PUBLISHED, n=[_IMAGES.get(name, 10_000) for name in rows["dataset"]])


def _selected(rows: pd.DataFrame, table: pd.DataFrame, dataset: str | None, eps: str | None) -> pd.DataFrame:
    if dataset is not None or not table.empty:
        rows = rows[rows["dataset"].isin(_known(table["dataset"]) if dataset is None else [base_dataset(dataset)])]
    if not table.empty:
        boards = set(zip(_known(table["dataset"]), table["threat"], strict=True))
        found = zip(rows["dataset"], rows["threat"], rows["zoo"], strict=True)
        kept = [not zoo or (dataset, threat) in boards for dataset, threat, zoo in found]
        rows = rows[pd.Series(kept, index=rows.index, dtype=bool)]
    if eps is not None:
        wanted = format_fraction(parse_fraction(eps))
        rows = rows[rows["threat"].str.endswith(f" {wanted}")]
    return rows


def _place(table: pd.DataFrame, row: dict[Any, Any]) -> float:
    """Return the place of a published row among the numbered rows of the table."""
    here = (_known(table["dataset"]) == row["dataset"]) & (table["threat"] == row["threat"])
    if "split" in table:
        here &= table["split"] == "test"
    if not here.any():
        return float(len(table))
    board = table.assign(place=range(len(table)))[here]
    board = board[board["n"] == board["n"].max()]
    better = board[(board["tier"] == AUTOATTACK.name) & (board["worst_case_acc"] >= row["worst_case_acc"])]
    return float(board["place"].min() if better.empty else better["place"].max() + 1) - 0.5


def _known(datasets: pd.Series[Any]) -> pd.Series[Any]:
    return datasets.map(base_dataset)


def base_dataset(dataset: str) -> str:
    """Return the name of a data set without the folder that it is read from: ``imagenet`` for ``imagenet:DIR``."""
    return dataset.partition(":")[0]
