"""Leaderboards: views over records."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_gkl.exact import format_fraction, parse_fraction
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import AttackResult, Record, canonical_hash
from robustbench_gkl.results.statistics import t_quantile, wilson_interval
from robustbench_gkl.results.store import ResultStore

LEADING = ("rank", "model", "loss", "arch", "dataset", "threat", "n", "clean_acc")
TRAILING = ("worst_case_acc", "ci_low", "ci_high", "checks", "params", "eval_seconds")

_Samples = tuple[str, str, str, str]
_Subject = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Row:
    """One model on one set of samples under one threat, from all its records that hold there."""

    records: tuple[Record, ...]
    stands: NDArray[np.bool_]
    """(n,): which samples stand after all attacks of all records."""

    @property
    def newest(self) -> Record:
        """The record that was made last."""
        return self.records[-1]

    @property
    def standing(self) -> int:
        """How many samples stand."""
        return int(self.stands.sum())

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
    def recipe(self) -> str:
        """What the row's model shares with those that differ from it in nothing but the seed."""
        trained = self.newest.model.train_config
        if trained is None:
            return self.newest.model.weights_sha256
        return canonical_hash([self.newest.model.weights, {k: v for k, v in trained.items() if k != "seed"}])

    @property
    def verdict(self) -> str:
        """The worst check of all records."""
        return max((record.verdict for record in self.records), key=["PASS", "WARN", "FAIL"].index)

    @property
    def ranked(self) -> bool:
        """Whether the row may carry a rank."""
        return self.verdict != "FAIL" and not any(record.partial for record in self.records)


def leaderboard(
    results_dir: str | Path = "results",
    *,
    dataset: str | None = None,
    eps: str | None = None,
    ids: Collection[str] | None = None,
    average_seeds: bool = False,
    strict: bool = False,
) -> pd.DataFrame:
    """Return the leaderboard over the records in a results folder, one row a model.

    Only rows with the same data set, split, samples, threat model and protocol are ranked against each other; each
    such group has its own ranks from 1. Rows share a rank with the best row that a paired test on the same samples
    (exact McNemar at 5 %) cannot tell them from. A row whose checks FAIL comes last in its group without a rank.

    Args:
        results_dir: the folder with ``records/`` and ``verdicts/``.
        dataset: only rows on this data set.
        eps: only rows at this radius (``"8/255"``).
        ids: only the records of these ids.
        average_seeds: one row for all models that differ in nothing but the training seed, see :func:`over_seeds`.
        strict: refuse broken records instead of passing them by.

    Returns:
        Columns ``rank model loss arch dataset threat n clean_acc``, one per attack, ``worst_case_acc ci_low ci_high
        checks params eval_seconds``; accuracies and interval ends (95 % Wilson on ``worst_case_acc``) in percent.

    Raises:
        UserError: no such folder, a broken record, or an eps that is no number.
    """
    store = ResultStore(Path(results_dir), strict=strict)
    wanted_eps = None if eps is None else format_fraction(parse_fraction(eps))
    records = [
        record
        for record in store.records()
        if (dataset is None or record.data.dataset == dataset)
        and (wanted_eps is None or record.threat.eps == wanted_eps)
        and (ids is None or record.id in ids)
    ]
    rows = list(_rows(records, store))
    return over_seeds(rows) if average_seeds else _frame(rows)


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
        yield Row(kept, np.logical_and.reduce([store.standing(record) for record in kept]))


def _ranks(rows: Sequence[Row]) -> Iterator[int | None]:
    """Yield the rank of each of ``rows``, which are sorted by group and accuracy."""
    place, leader, rank = 0, None, 0
    for row in rows:
        if leader is None or leader.group != row.group:
            place, leader = 0, None
        place += 1
        if leader is None or PairedCounts.of(leader.stands, row.stands).significant:
            leader, rank = row, place
        yield rank if row.ranked else None


def _sorted(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.group, not row.ranked, -row.standing, row.newest.model.name))


def _labels(rows: Iterable[Row]) -> list[str]:
    return sorted(dict.fromkeys(label for row in rows for label in row.attacks), key=_column_order)


def _typed(table: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(table, columns=list(columns)).astype({"rank": "Int64", "n": "int64", "params": "int64"})


def _frame(rows: Iterable[Row]) -> pd.DataFrame:
    ordered = _sorted(rows)
    labels = _labels(ordered)
    table = [_cells(row, labels, rank) for row, rank in zip(ordered, _ranks(ordered), strict=True)]
    return _typed(table, [*LEADING, *labels, *TRAILING])


def over_seeds(rows: Iterable[Row]) -> pd.DataFrame:
    """Return one row for all models that differ in nothing but the training seed.

    Accuracies are means over the models. Two columns follow ``worst_case_acc``: ``spread``, its standard deviation
    over the models (of a sample; absent for one model), and ``seeds``, their number. The interval is that of the mean
    over seeds (Student's t) where there are several, else Wilson's over samples. The rank is that of the mean.
    """
    rows = list(rows)
    labels = _labels(rows)
    families: dict[tuple[tuple[str, ...], bool, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.newest.model.name):
        families[row.group, not row.ranked, row.recipe].append(row)
    entries = [(group, unranked, _family_cells(family, labels)) for (group, unranked, _), family in families.items()]
    entries.sort(key=lambda entry: (*entry[:2], -entry[2]["worst_case_acc"]))
    table = []
    for _, members in groupby(entries, key=lambda entry: entry[0]):
        for place, (_, unranked, cells) in enumerate(members, start=1):
            table.append(cells | {"rank": None if unranked else place})
    return _typed(table, [*LEADING, *labels, "worst_case_acc", "spread", "seeds", *TRAILING[1:]])


def _family_cells(family: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    cells = pd.DataFrame([_cells(row, labels, None) for row in family])
    first: dict[str, Any] = {str(key): value for key, value in cells.iloc[0].items()}
    if len(family) == 1:
        return first | {"spread": None, "seeds": 1}
    means = {name: round(float(cells[name].mean()), 2) for name in ("clean_acc", *labels, "worst_case_acc")}
    spread = float(cells["worst_case_acc"].std())
    half = t_quantile(len(family) - 1) * spread / len(family) ** 0.5
    return (
        first
        | means
        | {
            "model": _shared_name([row.newest.model.name for row in family]),
            "spread": round(spread, 2),
            "seeds": len(family),
            "ci_low": round(max(0.0, means["worst_case_acc"] - half), 2),
            "ci_high": round(min(100.0, means["worst_case_acc"] + half), 2),
            "checks": max((row.verdict for row in family), key=["PASS", "WARN", "FAIL"].index),
            "eval_seconds": round(float(cells["eval_seconds"].sum()), 1),
        }
    )


def _shared_name(names: Sequence[str]) -> str:
    """Return how all ``names`` begin, without the digits and marks that set the seed apart."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same).rstrip("-_.0123456789") or names[0]


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
