"""``gklbench compare``: which of two models is ahead, on the samples that both were evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_gkl.errors import UserError, unknown
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.store import ResultStore


@dataclass(frozen=True)
class Comparison:
    """Two records under one threat and protocol, and how they stand on the samples that they share."""

    first: Record
    second: Record
    counts: PairedCounts

    @property
    def verdict(self) -> str:
        """``A ahead``, ``B ahead`` by their names, or that no difference is shown at this n."""
        if not self.counts.significant:
            return f"no difference shown at n = {self.counts.n}"
        ahead = self.first if self.counts.difference > 0 else self.second
        return f"{ahead.model.name} ahead"


def compare(store: ResultStore, first: str, second: str) -> list[Comparison]:
    """Return a comparison for each data set, threat and protocol under which both models were evaluated.

    Args:
        store: the results folder.
        first, second: names of models, or ids of records.

    Raises:
        UserError: a name without records, or two that were never evaluated alike; the message says what each has.
    """
    records = [record for record in store.records() if not record.partial]
    ours, theirs = _named(records, first), _named(records, second)
    found = list(_comparisons(store, ours, theirs))
    if not found:
        raise UserError(
            f"{first} and {second} share no samples under one threat and protocol "
            f"({first}: {_held(ours)}; {second}: {_held(theirs)}); evaluate both with the same options"
        )
    return found


def _comparisons(store: ResultStore, ours: list[Record], theirs: list[Record]) -> Iterator[Comparison]:
    for key, mine in _newest(ours).items():
        other = _newest(theirs).get(key)
        if other is None:
            continue
        shared, in_mine, in_other = np.intersect1d(_index(mine), _index(other), return_indices=True)
        if len(shared):
            counts = PairedCounts.of(store.standing(mine)[in_mine], store.standing(other)[in_other])
            yield Comparison(mine, other, counts)


def _named(records: list[Record], name: str) -> list[Record]:
    found = [record for record in records if name in (record.model.name, record.id)]
    if not found:
        raise unknown("model", name, {record.model.name for record in records})
    return found


def _newest(records: list[Record]) -> dict[tuple[str, ...], Record]:
    """Return the newest record for each data set, split, threat and protocol."""
    ordered = sorted(records, key=lambda record: record.created)
    return {(r.data.dataset, r.data.split, str(r.threat), r.protocol_sha256): r for r in ordered}


def _index(record: Record) -> NDArray[np.int64]:
    """Return the indices of a record's samples, sorted."""
    return np.concatenate([np.arange(start, stop) for start, stop in record.data.index_ranges])


def _held(records: list[Record]) -> str:
    kinds = {
        f"{record.data.dataset} {record.threat} {'+'.join(attack.label for attack in record.attacks)}"
        for record in records
    }
    return ", ".join(sorted(kinds))
