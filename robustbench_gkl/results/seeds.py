"""Families: models that differ in nothing but the training seed, as one row of a leaderboard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from robustbench_gkl.results.board import BoardEntry, BoardKey
from robustbench_gkl.results.record import canonical_hash
from robustbench_gkl.results.statistics import SeedMean, ranks_by_welch
from robustbench_gkl.results.tiers import UNRANKED, Tier

_Key = tuple[BoardKey, Tier, str]


@dataclass(frozen=True, eq=False)
class Family:
    """The models of one recipe on a board, one for each training seed.

    Attributes:
        entries: one a seed, by name.
        name: what their names share.
        mean: of their accuracies; None for one seed, or where an accuracy is not known.
        tier: the weakest of its seeds, in which it is ranked.
        rank: 1 + the number of families of the tier whose mean is significantly higher, by Welch's t on seed means
            with Holm over all pairs; None for a family of one seed, or whose models have no rank.
        lacks: what it lacks for a rank.
    """

    entries: tuple[BoardEntry, ...]
    name: str
    mean: SeedMean | None
    tier: Tier
    rank: int | None
    lacks: str

    @property
    def spread(self) -> float:
        """The standard deviation of the accuracies over seeds, of a sample, in points."""
        return float(np.std([entry.accuracy for entry in self.entries], ddof=1))  # type: ignore[arg-type]


def families_of(entries: Collection[BoardEntry]) -> list[Family]:
    """Return the families in the order in which they are shown.

    Superseded models are left out, and of several models of one recipe and seed the newest counts.
    """
    groups = _groups(entries)
    ranks = _ranks(groups)
    found = [_family(group, key[1], ranks.get(key)) for key, group in groups.items()]
    return sorted(found, key=_place)


def _groups(entries: Collection[BoardEntry]) -> dict[_Key, list[BoardEntry]]:
    """Return the entries of each family, which stands in the weakest tier of its seeds; the unranked are apart."""
    newest: dict[tuple[BoardKey, bool, str, Any], BoardEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.records[0].created):
        if entry.current:
            newest[(entry.board, entry.tier == UNRANKED, *_recipe(entry))] = entry
    families: dict[tuple[BoardKey, bool, str], list[BoardEntry]] = defaultdict(list)
    for (board, unranked, recipe, _), entry in sorted(newest.items(), key=lambda item: item[1].name):
        families[board, unranked, recipe].append(entry)
    return {
        (board, max(entry.tier for entry in group), recipe): group for (board, _, recipe), group in families.items()
    }


def _recipe(entry: BoardEntry) -> tuple[str, Any]:
    """Return what the entry's model shares with those that differ in the training seed alone, and this seed."""
    first = next((record for record in entry.records if record.model.train_config is not None), entry.records[0])
    model = first.model
    if model.train_config is None:
        return model.model_sha256, None
    settings = {key: value for key, value in model.train_config.items() if key != "seed"}
    return canonical_hash([model.weights, model.arch, settings]), model.train_config.get("seed")


def _ranks(groups: dict[_Key, list[BoardEntry]]) -> dict[_Key, int]:
    compared: dict[tuple[BoardKey, Tier], dict[_Key, SeedMean]] = defaultdict(dict)
    for key, group in groups.items():
        mean = _mean(group)
        if mean is not None and key[1] != UNRANKED:
            compared[key[:2]][key] = mean
    return {
        key: rank
        for means in compared.values()
        for key, rank in zip(means, ranks_by_welch(list(means.values())), strict=True)
    }


def _family(group: Sequence[BoardEntry], tier: Tier, rank: int | None) -> Family:
    lacks = "; ".join(sorted({entry.lacks for entry in group} - {""}))
    return Family(
        entries=tuple(group),
        name=_shared_name([entry.name for entry in group]) if len(group) > 1 else group[0].name,
        mean=_mean(group),
        tier=tier,
        rank=rank,
        lacks=lacks or ("" if rank is not None else "more training seeds"),
    )


def _mean(group: Sequence[BoardEntry]) -> SeedMean | None:
    known = [entry.accuracy for entry in group if entry.accuracy is not None]
    return SeedMean.of(known, n=group[0].board.n) if len(known) == len(group) > 1 else None


def _place(family: Family) -> tuple[Any, ...]:
    entry = family.entries[0]
    accuracy = family.mean.mean if family.mean is not None else entry.accuracy or 0.0
    return (entry.board.place, family.rank is None, family.tier, family.rank or 0, -accuracy, family.name)


def _shared_name(names: Sequence[str]) -> str:
    """Return how all ``names`` begin, without the digits and marks that set the seed apart."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same).rstrip("-_.0123456789") or names[0]
