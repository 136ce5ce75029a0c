"""``gklbench compare``: which of two models is ahead, on samples whose pixels are known to be the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.data.facts import BLOCK
from robustbench_gkl.results.board import BoardEntry, Ranking, entries_of
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.store import ResultStore


@dataclass(frozen=True, eq=False)
class Side:
    """One of two models on one board.

    Attributes:
        name: as it was given.
        entry: what is known of it there, or what its one record says.
    """

    name: str
    entry: BoardEntry


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two models on the same data set, split and threat, and how they stand on the samples that they share.

    Attributes:
        first, second: the models.
        counts: of the shared samples.
        adjusted_p: Holm's p-value over all pairs of their tier; None where they are not in one tier of one board.
    """

    first: Side
    second: Side
    counts: PairedCounts
    adjusted_p: float | None

    @property
    def verdict(self) -> str:
        """``A ahead``, ``B ahead`` by their names, or that no difference is shown at this n."""
        if not self.counts.significant:
            return f"no difference shown at n = {self.counts.n}"
        return f"{(self.first if self.counts.difference > 0 else self.second).name} ahead"


def compare(store: ResultStore, first: str, second: str) -> list[Comparison]:
    """Return a comparison for each data set, split and threat under which both models were evaluated.

    A model is judged by all its records on a set of samples, as on the leaderboard; a record by itself alone. Samples
    are paired where their pixels are known to be the same: all of them in equal sets, else the equal blocks of 50 in
    sets that are the first so many of their split.

    Args:
        store: the results folder.
        first, second: names of models, or ids of records.

    Raises:
        UserError: a name without records, or two that share no samples; the message says what each has and why.
    """
    records = list(store.records())
    entries = entries_of(records, store)
    ranking = Ranking.of(entries)
    ours = _named(first, records, entries, store)
    theirs = _named(second, records, entries, store)
    found, why = [], []
    for mine, others in _on_one_board(ours, theirs):
        pairs = [(one, other, _shared(_telling(one), _telling(other))) for one in mine for other in others]
        equal = [pair for pair in pairs if pair[0].board == pair[1].board]
        # Other sample sets repeat what an equal one says; without one, that of most samples says it all.
        chosen = equal or [max(pairs, key=lambda pair: (len(pair[2]), pair[0].newest.created))]
        for one, other, shared in chosen:
            if len(shared):
                found.append(_comparison(Side(first, one), Side(second, other), shared, ranking))
            else:
                why.append(_why(_telling(one), _telling(other)))
    if not found:
        reason = why[0] if why else "there is no data set, split and threat under which both were evaluated"
        raise UserError(
            f"{first} and {second} share no samples: {reason} ({first}: {_held(ours)}; {second}: {_held(theirs)})"
        )
    return found


def _comparison(first: Side, second: Side, shared: NDArray[np.intp], ranking: Ranking) -> Comparison:
    one, other = first.entry, second.entry
    assert one.stands is not None
    assert other.stands is not None
    counts = PairedCounts.of(one.stands[shared], other.stands[shared])
    return Comparison(first, second, counts, ranking.adjusted_p(one, other))


def _named(name: str, records: Sequence[Record], entries: Sequence[BoardEntry], store: ResultStore) -> list[BoardEntry]:
    """Return a model's entries, the newest last; those of a record are of a board that it has for itself."""
    alone = [record for record in records if record.id == name]
    if alone:
        return entries_of(alone, store)
    found = [entry for entry in entries if name in entry.names]
    if not found:
        raise unknown("model", name, {record.model.name for record in records})
    # Under one name there may be a best and a last model: on each board the newest speaks for the name.
    newest = {entry.board: entry for entry in sorted(found, key=lambda entry: entry.newest.created)}
    return list(newest.values())


def _on_one_board(
    ours: Sequence[BoardEntry], theirs: Sequence[BoardEntry]
) -> Iterator[tuple[list[BoardEntry], list[BoardEntry]]]:
    """Yield the entries of either model on each data set, split and threat, whatever the samples."""
    boards: dict[tuple[str, str, str], tuple[list[BoardEntry], list[BoardEntry]]] = defaultdict(lambda: ([], []))
    for side, entries in enumerate((ours, theirs)):
        for entry in sorted(entries, key=lambda entry: entry.board.place):
            boards[entry.board.dataset, entry.board.split, entry.board.threat][side].append(entry)
    return (both for both in boards.values() if all(both))


def _telling(entry: BoardEntry) -> Record:
    """Return a record of the entry that has hashes of its pixels, if there is one; all have the same pixels."""
    return next((record for record in reversed(entry.records) if record.data.blocks), entry.newest)


def _shared(first: Record, second: Record) -> NDArray[np.intp]:
    """Return the positions of the samples that two records of one split share."""
    if first.data.sha256 == second.data.sha256:
        return np.arange(first.data.n)
    if not (_from_the_first(first) and _from_the_first(second)):
        return np.arange(0)
    equal = [
        block
        for block, (one, other) in enumerate(zip(first.data.blocks, second.data.blocks, strict=False))
        if one == other
    ]
    return np.concatenate([np.arange(0), *(np.arange(block * BLOCK, (block + 1) * BLOCK) for block in equal)])


def _from_the_first(record: Record) -> bool:
    """Return whether block i is of the samples from 50 i on."""
    return record.data.sample_set.startswith("first") and record.data.index_ranges == ((0, record.data.n),)


def _why(first: Record, second: Record) -> str:
    """Return the reason why two records of other sample sets share no sample."""
    for record in (first, second):
        if not _from_the_first(record):
            return f"{record.id} is of chosen samples, which cannot be paired with others"
    for record in (first, second):
        if not record.data.blocks:
            return f"their sample sets differ, and {record.id} does not say which pixels it saw (no blocks)"
    return "their sample sets have no block of equal pixels"


def _held(entries: Sequence[BoardEntry]) -> str:
    boards = sorted((entry.board for entry in entries), key=lambda board: board.place)
    return ", ".join(f"{board.dataset} {board.split} {board.threat} n = {board.n}" for board in boards)
