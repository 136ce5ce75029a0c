"""Boards: the evidence of all records on each model, on one set of samples under one threat."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_gkl.core.exact import parse_fraction
from robustbench_gkl.results import tiers
from robustbench_gkl.results.record import CheckVerdict, Record
from robustbench_gkl.results.statistics import PairedTests
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.results.tiers import UNRANKED, Tier

_LOGGER = logging.getLogger("robustbench_gkl")


class BoardKey(NamedTuple):
    """Data set, split, sample set and threat: what must agree for two models to stand on one board."""

    dataset: str
    split: str
    n: int
    sha256: str
    threat: str

    @classmethod
    def of(cls, record: Record) -> BoardKey:
        """Return the board that a record belongs to."""
        data = record.data
        return cls(data.dataset, data.split, data.n, data.sha256, str(record.threat))

    @property
    def eps(self) -> str:
        """The radius; ``0`` on the board of clean accuracy."""
        return self.threat.rpartition(" ")[2] if " " in self.threat else "0"

    @property
    def place(self) -> tuple[Any, ...]:
        """What boards are sorted by: data set and split, then clean accuracy, norms, and radii by their size."""
        norm, _, _ = self.threat.rpartition(" ")
        return (self.dataset, self.split, norm, parse_fraction(self.eps), self.n, self.sha256)


@dataclass
class Models:
    """What is known of models beyond one board, from all records.

    Attributes:
        names: what each model is called by its hash: the names that no newer model has, in the order in which it
            got them, or all that it had if it is superseded under each.
        current: the hashes of the models that are the newest under one of their names.
        randomised: of those that answer at random.
        failed: the failing model checks of a model on a data set.
    """

    names: dict[str, list[str]] = field(default_factory=dict)
    current: set[str] = field(default_factory=set)
    randomised: set[str] = field(default_factory=set)
    failed: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, records: Sequence[Record]) -> Models:
        """Return what records, oldest first, know of the models."""
        found = cls()
        newest = _newest_models(records)
        found.current = {sha256 for _, _, sha256 in newest}
        looked: set[str] = set()
        for record in records:
            model = record.model
            held = (model.name, model.weights, model.model_sha256) in newest
            if held or model.model_sha256 not in found.current:
                names = found.names.setdefault(model.model_sha256, [])
                names += [model.name] if model.name not in names else []
            at_random = tiers.answers_at_random(record)
            if at_random is not None and model.model_sha256 not in looked:
                looked.add(model.model_sha256)  # the first look counts: no later record changes what a model is
                found.randomised |= {model.model_sha256} if at_random else set()
            if failed := record.failed("model"):
                found.failed[model.model_sha256, record.data.dataset].update(failed)
        return found


def _newest_models(records: Sequence[Record]) -> set[tuple[str, str | None, str]]:
    """Return name, choice of weights and hash of the newest models of each name, from records, oldest first.

    A model is as old as its first record of that name. The weights of an earlier training of the name are superseded,
    whichever they are. What was evaluated from Python is no newer model where the name has the same weights from
    elsewhere: neither takes the place of the other.
    """
    elsewhere = {(record.model.name, record.model.weights_sha256) for record in records if not _from_python(record)}
    first: dict[tuple[str, str], Record] = {}
    again: list[Record] = []
    for record in records:
        if _from_python(record) and (record.model.name, record.model.weights_sha256) in elsewhere:
            again.append(record)
        else:
            first.setdefault((record.model.name, record.model.model_sha256 + (record.model.weights or "")), record)
    training = {record.model.name: record.model.train_config for record in first.values()}
    newest = {
        (record.model.name, record.model.weights): record.model
        for record in first.values()
        if record.model.train_config == training[record.model.name]
    }
    held = {(model.name, model.weights_sha256) for model in newest.values()}
    models = [*newest.values(), *(record.model for record in again)]
    return {
        (model.name, model.weights, model.model_sha256)
        for model in models
        if (model.name, model.weights_sha256) in held
    }


def _from_python(record: Record) -> bool:
    return (record.model.source or {}).get("kind") == "python"


@dataclass(frozen=True, eq=False)
class BoardEntry:
    """One model on one board.

    Attributes:
        board: where.
        names: what the model is called, the name that it had first at the front.
        current: it is not superseded by a newer one of its name.
        records: all its records there, oldest first.
        stands: (n,) which samples nothing known has broken, or which stand after the reference; None if that is
            not known.
        broken: (n,) which samples a record breaks, by whatever attack.
        tier: the strongest tier that one of the records completes.
        counted: the records that lead to the tier, oldest first; all records if none does.
        lacks: what it lacks for a rank; empty if it has one.
        failed: the failing checks of the model.
    """

    board: BoardKey
    names: tuple[str, ...]
    current: bool
    records: tuple[Record, ...]
    stands: NDArray[np.bool_] | None
    broken: NDArray[np.bool_]
    tier: Tier
    counted: tuple[Record, ...]
    lacks: str
    failed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that it is listed under."""
        return self.names[0]

    @property
    def newest(self) -> Record:
        """The record that was made last."""
        return self.records[-1]

    @cached_property
    def standing(self) -> int:
        """How many samples stand; -1 if that is not known."""
        return -1 if self.stands is None else int(self.stands.sum())

    @cached_property
    def proved(self) -> int | None:
        """How many samples one of the records proves and none breaks, by whatever attack; None where none certifies."""
        return None if self._proved is None else int((self._proved & ~self.broken).sum())

    @cached_property
    def contradicted(self) -> int:
        """How many samples one of the records proves, and one breaks: one of the two is wrong."""
        return 0 if self._proved is None else int((self._proved & self.broken).sum())

    @cached_property
    def _proved(self) -> NDArray[np.bool_] | None:
        found = [proved for record in self.records if (proved := record.proves()) is not None]
        return np.logical_or.reduce(found) if found else None

    @property
    def accuracy(self) -> float | None:
        """Percentage of samples that stand."""
        return None if self.stands is None else 100 * self.standing / self.board.n

    @property
    def verdict(self) -> CheckVerdict:
        """The worst of the checks that a rank rests on: all of the model, and those of the attacks that count."""
        counted = {record.id for record in self.counted}
        found = {
            check.verdict
            for record in self.records
            for check in record.checks
            if check.scope == "model" or record.id in counted
        }
        return "FAIL" if self.failed or "FAIL" in found else "WARN" if "WARN" in found else "PASS"


@dataclass(frozen=True, eq=False)
class Placed:
    """An entry and its rank in its tier."""

    entry: BoardEntry
    rank: int | None


def entries_of(
    records: Iterable[Record], store: ResultStore, *, reference: str | None = None, all_models: bool = False
) -> list[BoardEntry]:
    """Return one entry for each model on each board.

    Args:
        records: all that there is to know; of no other record is anything taken into account.
        store: where their verdicts are.
        reference: the canonical spec of the one attack to judge by; None for all evidence.
        all_models: superseded models too.

    Raises:
        UserError: the store is strict, and verdicts that are needed are absent or not those of their record.
    """
    ordered = sorted(store.readable(records), key=lambda record: (record.created, record.id))
    models = Models.of(ordered)
    joined: dict[tuple[BoardKey, str], list[Record]] = defaultdict(list)
    for record in ordered:
        if all_models or record.model.model_sha256 in models.current:
            joined[BoardKey.of(record), record.model.model_sha256].append(record)
    entries = [_entry(board, found, models, store, reference) for (board, _), found in joined.items()]
    for entry in entries:
        if entry.contradicted:
            _LOGGER.warning(
                "%s on %s, %s: %d certified in one record and broken in another, which cannot be; they count as broken",
                *(entry.name, entry.board.dataset, entry.board.threat, entry.contradicted),
            )
    return entries


def _entry(
    board: BoardKey, records: Sequence[Record], models: Models, store: ResultStore, reference: str | None
) -> BoardEntry:
    if board.eps == "0":
        reference = None  # there are no attacks on the board of clean accuracy
    sha256 = records[0].model.model_sha256
    randomised = sha256 in models.randomised
    reached = [tiers.record_tier(record, randomised=randomised, reference=reference) for record in records]
    tier = min((found for found in reached if found is not None), default=UNRANKED)
    counted = [record for record, found in zip(records, reached, strict=True) if found == tier]
    lacks = "" if counted else tiers.lacking(records, randomised=randomised, reference=reference)
    unbroken: NDArray[np.bool_] = np.logical_and.reduce([store.standing(record) for record in records])
    stands: NDArray[np.bool_] | None = unbroken
    if reference is not None:
        stands = _after_reference(counted, reference, store)
        lacks = lacks or ("" if stands is not None else f"per-sample verdicts after {reference}")
    failed = tuple(sorted(models.failed.get((sha256, board.dataset), ())))
    if failed:
        lacks = "; ".join(filter(None, (f"checks fail: {', '.join(failed)}", lacks)))
    return BoardEntry(
        board=board,
        names=tuple(models.names[sha256]),
        current=sha256 in models.current,
        records=tuple(records),
        stands=stands,
        broken=~unbroken,
        tier=UNRANKED if lacks else tier,
        counted=tuple(counted or records),
        lacks=lacks,
        failed=failed,
    )


def _after_reference(records: Sequence[Record], reference: str, store: ResultStore) -> NDArray[np.bool_] | None:
    """Return which samples stand after the reference, from the records in which it ran first if there are such."""
    first: list[NDArray[np.bool_]] = []
    later: list[NDArray[np.bool_]] = []
    for record in records:
        place = [attack.spec for attack in record.attacks].index(reference)
        stands = tiers.standing_after(record, place, store)
        if stands is not None:
            (later if place else first).append(stands)
    found = first or later
    return np.logical_and.reduce(found) if found else None


@dataclass(frozen=True, eq=False)
class Ranking:
    """Entries with their ranks, in the order in which they are shown."""

    placed: tuple[Placed, ...]
    tests: dict[tuple[BoardKey, Tier], tuple[list[BoardEntry], PairedTests]]

    @classmethod
    def of(cls, entries: Collection[BoardEntry]) -> Ranking:
        """Rank the entries of each tier of each board among themselves."""
        groups: dict[tuple[BoardKey, Tier], list[BoardEntry]] = defaultdict(list)
        for entry in entries:
            groups[entry.board, entry.tier].append(entry)
        placed: list[Placed] = []
        tests = {}
        for key, group in groups.items():
            ranks: list[int | None] = [None] * len(group)
            if key[1] != UNRANKED:
                found = PairedTests.of(np.stack([entry.stands for entry in group if entry.stands is not None]))
                ranks, tests[key] = list(map(int, found.ranks())), (group, found)
            placed += map(Placed, group, ranks)
        placed.sort(key=_place)
        return cls(tuple(placed), tests)

    def adjusted_p(self, first: BoardEntry, second: BoardEntry) -> float | None:
        """Return Holm's adjusted p-value of two entries; None if they are not ranked in one tier of one board."""
        group, found = self.tests.get((first.board, first.tier), ([], None))
        if found is None or first not in group or second not in group:
            return None
        return found.adjusted_p(group.index(first), group.index(second))


def _place(placed: Placed) -> tuple[Any, ...]:
    entry = placed.entry
    return (entry.board.place, entry.tier, placed.rank or 0, -entry.standing, entry.name)
