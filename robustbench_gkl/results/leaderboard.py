"""Leaderboards: views over records."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from robustbench_gkl.errors import UserError
from robustbench_gkl.exact import format_fraction, parse_fraction
from robustbench_gkl.results.record import AttackResult, Record
from robustbench_gkl.results.statistics import wilson_interval
from robustbench_gkl.results.store import ResultStore

LEADING = ("rank", "model", "loss", "arch", "dataset", "threat", "n", "clean_acc")
TRAILING = ("worst_case_acc", "ci_low", "ci_high", "checks", "params", "eval_seconds")

_Samples = tuple[str, str, str, str]
_Subject = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """One model on one set of samples under one threat, from all its records that hold there."""

    records: tuple[Record, ...]
    standing: int
    """Samples that stand after all attacks of all records."""

    @property
    def newest(self) -> Record:
        """The record that was made last."""
        return self.records[-1]

    @property
    def attacks(self) -> dict[str, AttackResult]:
        """The attacks by label; the newest record's where several have one."""
        return {attack.label: attack for record in self.records for attack in record.attacks}

    @property
    def group(self) -> tuple[str, ...]:
        """What must agree for two rows to be ranked against each other."""
        data, threat = self.newest.data, self.newest.threat
        protocols = "+".join(sorted(record.protocol_sha256 for record in self.records))
        return (data.dataset, data.split, str(threat), f"{data.n:09}", data.sha256, protocols)

    @property
    def verdict(self) -> str:
        """The worst check of all records."""
        return max((record.verdict for record in self.records), key=["PASS", "WARN", "FAIL"].index)

    @property
    def ranked(self) -> bool:
        """Whether the row may carry a rank."""
        return self.verdict != "FAIL" and not any(record.partial for record in self.records)


def leaderboard(
    results_dir: str | Path = "results", *, dataset: str | None = None, eps: str | None = None
) -> pd.DataFrame:
    """Return the leaderboard over the records in a results folder, one row a model.

    Only rows with the same data set, split, samples, threat model and protocol are ranked against each other; each
    such group has its own ranks from 1, and equal robust accuracies share one. A row whose checks FAIL comes last
    in its group without a rank.

    Args:
        results_dir: the folder with ``records/`` and ``verdicts/``.
        dataset: only rows on this data set.
        eps: only rows at this radius (``"8/255"``).

    Returns:
        Columns ``rank model loss arch dataset threat n clean_acc``, one per attack, ``worst_case_acc ci_low ci_high
        checks params eval_seconds``; accuracies and interval ends (95 % Wilson on ``worst_case_acc``) in percent.

    Raises:
        UserError: no such folder, a broken record, or an eps that is no number.
    """
    store = ResultStore(Path(results_dir))
    wanted_eps = None if eps is None else format_fraction(parse_fraction(eps))
    records = [
        record
        for record in store.records()
        if (dataset is None or record.data.dataset == dataset)
        and (wanted_eps is None or record.threat.eps == wanted_eps)
    ]
    return _frame(list(_rows(records, store)))


def _rows(records: Iterable[Record], store: ResultStore) -> Iterable[Row]:
    """Join the records that speak of the same model, samples and threat; the newest of each protocol counts.

    A partial record counts only where there is no complete one.
    """
    joined: dict[tuple[_Subject, _Samples], dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (not record.partial, record.created)):
        subject = (record.model.name, record.model.weights_sha256)
        samples = (record.data.dataset, record.data.split, record.data.sha256, str(record.threat))
        by_protocol = joined[subject, samples]
        by_protocol.pop(record.protocol_sha256, None)
        by_protocol[record.protocol_sha256] = record
    for by_protocol in joined.values():
        kept = tuple(sorted(by_protocol.values(), key=lambda record: record.created))
        yield Row(kept, _standing(kept, store))


def _standing(records: Sequence[Record], store: ResultStore) -> int:
    if len(records) == 1:
        return round(records[0].worst_case_acc * records[0].data.n / 100)
    return int(np.logical_and.reduce([store.standing(record) for record in records]).sum())


def _frame(rows: list[Row]) -> pd.DataFrame:
    rows.sort(key=lambda row: (row.group, not row.ranked, -row.standing, row.newest.model.name))
    labels = list(dict.fromkeys(label for row in rows for label in row.attacks))
    labels.sort(key=_column_order)
    table = []
    place = rank = 0
    before: Row | None = None
    for row in rows:
        if before is None or before.group != row.group:
            place, before = 0, None
        place += 1
        if before is None or row.standing < before.standing:
            rank = place
        before = row
        table.append(_cells(row, labels, rank if row.ranked else None))
    frame = pd.DataFrame(table, columns=[*LEADING, *labels, *TRAILING])
    return frame.astype({"rank": "Int64", "n": "int64", "params": "int64"})


def _column_order(label: str) -> tuple[bool, list[tuple[str, int]]]:
    """Put ``pgd-20`` before ``pgd-100``, and AutoAttack last."""
    parts = re.findall(r"(\D*)(\d*)", label)
    return label.startswith("autoattack"), [(text, int(number or 0)) for text, number in parts]


def _cells(row: Row, labels: Sequence[str], rank: int | None) -> dict[str, object]:
    record, attacks = row.newest, row.attacks
    low, high = wilson_interval(row.standing, record.data.n)
    return {
        "rank": rank,
        "model": record.model.name,
        "loss": record.model.loss or "",
        "arch": record.model.arch,
        "dataset": record.data.dataset,
        "threat": str(record.threat),
        "n": record.data.n,
        "clean_acc": round(record.clean_acc, 2),
        **{label: round(attacks[label].robust_acc, 2) if label in attacks else None for label in labels},
        "worst_case_acc": round(100 * row.standing / record.data.n, 2),
        "ci_low": round(100 * low, 2),
        "ci_high": round(100 * high, 2),
        "checks": row.verdict,
        "params": record.model.params,
        "eval_seconds": round(sum(record.seconds for record in row.records), 1),
    }


def save_table(table: pd.DataFrame, path: Path, *, form: str) -> None:
    """Write a leaderboard as ``csv``, ``markdown`` or ``json``.

    Raises:
        UserError: the file cannot be written.
    """
    from robustbench_gkl.files import write_atomically

    if form == "csv":
        text = table.to_csv(index=False)
    elif form == "json":
        text = table.to_json(orient="records", indent=1) + "\n"
    else:
        text = markdown(table)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def markdown(table: pd.DataFrame) -> str:
    """Return a leaderboard as a Markdown table."""
    cells = table.astype(object).where(table.notna(), "").map(_markdown_cell)
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes]
    lines = [
        "| " + " | ".join(map(_markdown_cell, table.columns)) + " |",
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
        *("| " + " | ".join(row) + " |" for row in cells.itertuples(index=False)),
    ]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell).replace("|", "\\|")
