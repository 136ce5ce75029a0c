"""The leaderboard over evaluations on corrupted images."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pandas as pd

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results.corruptions import CorruptionRecord
from robustbench_gkl.results.store import ResultStore

COLUMNS = (
    *("rank", "model", "loss", "arch", "dataset", "n", "corruptions", "mean_corruption_acc", "ci_low", "ci_high"),
    *(f"severity_{severity}" for severity in range(1, 6)),
    *("params", "eval_seconds"),
)


def corruption_leaderboard(
    results_dir: str | Path = "results", *, dataset: str | None = None, strict: bool = False
) -> pd.DataFrame:
    """Return the leaderboard over all records on corrupted images, one row a model.

    Only rows on the same images are ranked against each other; equal accuracies share a rank.

    Args:
        results_dir: the folder with ``corruptions/``.
        dataset: only rows on the folder of this name, such as ``"CIFAR-10-C"``.
        strict: refuse a broken record instead of passing it by.

    Returns:
        Columns ``COLUMNS``; accuracies and interval ends in percent, ``n`` per corruption and severity.

    Raises:
        UserError: no such folder; a broken record, if ``strict``.
    """
    groups: dict[tuple[str, str], list[CorruptionRecord]] = defaultdict(list)
    store = ResultStore(Path(results_dir), strict=strict)
    if not store.corruptions.folder.is_dir():
        where = store.corruptions.folder
        raise UserError(f"there is no folder {where}; evaluate a model with gklbench corruptions first")
    for record in store.corruptions.all():
        if dataset is None or record.data.dataset == dataset:
            groups[record.data.dataset, record.data.sha256].append(record)
    rows = []
    for _, group in sorted(groups.items()):
        group.sort(key=lambda record: (-record.right, record.model.name))
        for record in group:
            rank = 1 + sum(other.right > record.right for other in group)
            rows.append(_cells(record, rank))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"rank": "int64", "n": "int64", "corruptions": "int64", "params": "int64"})


def _cells(record: CorruptionRecord, rank: int) -> dict[str, object]:
    low, high = record.interval()
    return {
        "rank": rank,
        "model": record.model.name,
        "loss": record.model.loss or "",
        "arch": record.model.arch,
        "dataset": record.data.dataset,
        "n": record.data.n,
        "corruptions": len(record.counted),
        "mean_corruption_acc": round(record.mean_corruption_acc, 2),
        "ci_low": round(low, 2),
        "ci_high": round(high, 2),
        **{f"severity_{severity}": round(record.severity_acc(severity), 2) for severity in range(1, 6)},
        "params": record.model.params,
        "eval_seconds": round(record.seconds, 1),
    }
