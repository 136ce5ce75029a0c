"""The columns of attacks on a leaderboard: their names, meaning and accuracies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results import tiers
from robustbench_gkl.results.board import BoardEntry
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.store import ResultStore


class Column(NamedTuple):
    """An attack, what ran before it on the same samples, and how it was run.

    Attributes:
        labels: of the attacks up to this one, in the order run.
        specs: their canonical specs; empty if one of them is not known.
        how: what sets the run apart from a native one in float32.
        over_radii: whether the attack was run at several radii together.
    """

    labels: tuple[str, ...]
    specs: tuple[str, ...]
    how: str
    over_radii: bool = False

    @property
    def is_autoattack(self) -> bool:
        """Return whether the accuracy is that after standard AutoAttack."""
        return self.specs[-1:] == (tiers.STANDARD,) and not self.over_radii

    @property
    def name(self) -> str:
        """The attack's label where it ran first, else all labels after ``after``."""
        return self._named(self.labels)

    @property
    def exact_name(self) -> str:
        """The name with specs for labels, for columns whose labels are alike."""
        return self._named(self.specs or self.labels)

    def _named(self, parts: Sequence[str]) -> str:
        return ("after " if len(parts) > 1 else "") + "+".join(parts) + self.how

    @property
    def place(self) -> tuple[object, ...]:
        """What columns are sorted by: attacks alone first, ``pgd-20`` before ``pgd-100``, AutoAttack last."""
        last = self.labels[-1]
        return (len(self.labels) > 1, last.startswith("autoattack"), _natural(last), _natural(self.name))


class AttackColumns(NamedTuple):
    """The columns of attacks on a leaderboard.

    Attributes:
        names: in order.
        cells: for each entry its accuracies in percent by column.
        autoattack: the columns of standard AutoAttack, our own engine in float32 first.
    """

    names: list[str]
    cells: list[dict[str, float]]
    autoattack: list[str]


def attack_columns(entries: Iterable[BoardEntry], store: ResultStore) -> AttackColumns:
    """Return the columns of the attacks on some entries."""
    cells = [_cells(entry, store) for entry in entries]
    columns = sorted({column for row in cells for column in row}, key=lambda column: column.place)
    names = _names(columns)
    standard = sorted((column for column in columns if column.is_autoattack), key=lambda column: len(column.how))
    return AttackColumns(
        names=list(dict.fromkeys(names.values())),
        cells=[{names[column]: value for column, value in row.items()} for row in cells],
        autoattack=list(dict.fromkeys(names[column] for column in standard)),
    )


def _names(columns: Sequence[Column]) -> Mapping[Column, str]:
    """Return what each column is called: two whose specs differ never share a name."""
    specs: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for column in columns:
        specs[column.name].add(column.specs)
    return {column: _told_apart(column, specs[column.name]) for column in columns}


def _told_apart(column: Column, specs: set[tuple[str, ...]]) -> str:
    """Return a column's name, given all ``specs`` that have it."""
    if not column.specs and len(specs) > 1:
        return f"{column.name} (options unknown)"
    return column.exact_name if len(specs - {()}) > 1 else column.name


def _cells(entry: BoardEntry, store: ResultStore) -> dict[Column, float]:
    """Return an entry's accuracies. Attacks that were not completed show where there is nothing better."""
    if entry.board.eps == "0":
        return {}
    sound, all_of = defaultdict(list), defaultdict(list)
    for record in entry.records:
        complete = not record.partial and not record.failed("attack")
        for place in range(len(record.attacks)):
            column = _column(record, place)
            all_of[column].append((record, place))
            if complete:
                sound[column].append((record, place))
    shown = sound if entry.tier != tiers.UNRANKED else {**all_of, **sound}
    return {column: _accuracy(runs, store) for column, runs in shown.items()}


def _column(record: Record, place: int) -> Column:
    attacks = record.attacks[: place + 1]
    specs = tuple(attack.spec for attack in attacks if attack.spec is not None)
    return Column(
        labels=tuple(attack.label for attack in attacks),
        specs=specs if len(specs) == len(attacks) else (),
        how=_how(record),
        over_radii=tiers.over_radii(record),
    )


def _how(record: Record) -> str:
    if record.config is not None:
        precision, compiled = record.config.search_precision, record.config.compiled
    else:
        settings = record.protocol[0] if record.protocol else {}
        precision, compiled = settings.get("search_precision", "float32"), bool(settings.get("compiled"))
    marks = [
        " (reference)" if record.engine == "reference" else "",
        f" [{precision}]" if precision != "float32" else "",
        " [compiled]" if compiled else "",
        " [grid]" if tiers.over_radii(record) else "",
    ]
    return "".join(marks)


def _accuracy(runs: Sequence[tuple[Record, int]], store: ResultStore) -> float:
    """Return the accuracy in percent after an attack, pointwise over several evaluations by it, the newest last."""
    record, place = runs[-1]
    accuracy = record.attacks[place].robust_acc
    if len(runs) > 1:
        known = []
        for run, at in runs:
            try:
                stands = tiers.standing_after(run, at, store)
            except UserError:  # a cell is not worth a table: the newest record speaks for itself
                continue
            if stands is not None:
                known.append(stands)
        if known:
            accuracy = 100 * float(np.logical_and.reduce(known).mean())
    return round(accuracy, 2)


def _natural(label: str) -> list[tuple[str, int]]:
    parts = re.findall(r"(\D*)(\d*)", label)
    return [(text, int(number or 0)) for text, number in parts]
