"""Tiers: what a model has been through, by the strongest attack that one of its records has completed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_gkl.results.record import AttackResult, Record, unpack_standing
from robustbench_gkl.results.store import ResultStore

ITERATED = 10
"""Gradient steps from which on an attack counts as iterated."""
STANDARD = "autoattack:version=standard"
"""The spec of AutoAttack as it is usually meant."""
_AUTOATTACK = (STANDARD, "autoattack:version=plus")
_AUTOATTACK_RAND = "autoattack:version=rand"


class Tier(NamedTuple):
    """A tier of a board; the smaller its place, the earlier it is listed."""

    place: int
    name: str


CLEAN = Tier(0, "clean")
AUTOATTACK = Tier(1, "autoattack")
TARGETED = Tier(2, "targeted")
GRADIENT = Tier(3, "gradient")
OTHER = Tier(4, "other")
RAND = Tier(5, "autoattack-rand")
AVERAGING = Tier(6, "averaging")
REFERENCE = Tier(7, "reference")
REFERENCE_RANDOMISED = Tier(8, "reference-averaging")
UNRANKED = Tier(9, "")
PLACES = {
    tier.name: tier.place
    for tier in (CLEAN, AUTOATTACK, TARGETED, GRADIENT, OTHER, RAND, AVERAGING, REFERENCE, REFERENCE_RANDOMISED)
}
"""The place of each tier by its name."""


def attack_tier(attack: AttackResult, *, randomised: bool) -> Tier | None:
    """Return the tier that an attack leads to once it is complete.

    Args:
        attack: what it was; stages of records that do not say what they did count for nothing.
        randomised: the model answers at random. Only attacks that average over its answers lead anywhere then.
    """
    stages = attack.stages
    if randomised:
        if attack.spec == _AUTOATTACK_RAND:
            return RAND
        return AVERAGING if stages and all(stage.averages for stage in stages) else None
    if attack.spec in _AUTOATTACK:
        return AUTOATTACK
    if any(stage.targeted for stage in stages):
        return TARGETED
    if any(stage.gradients and (stage.length or 0) >= ITERATED for stage in stages):
        return GRADIENT
    return OTHER


def incomplete(record: Record) -> str:
    """Return why a record completes none of its attacks; nothing if it completes them."""
    if record.partial:
        return f"a complete attack ({record.attacks[-1].label if record.attacks else 'it'} stopped early)"
    if is_clean(record):
        return ""
    if over_radii(record):
        return "an attack at this radius alone (only --eps-grid)"
    if failed := record.failed("attack"):
        return f"a complete attack (checks fail: {', '.join(failed)})"
    return "" if record.attacks else "an attack"


def record_tier(record: Record, *, randomised: bool, reference: str | None = None) -> Tier | None:
    """Return the strongest tier that a record leads to by itself; None if it completes nothing.

    Args:
        record: the evaluation.
        randomised: the model answers at random.
        reference: the canonical spec of the one attack that counts; None for all.
    """
    if incomplete(record):
        return None
    if is_clean(record):
        return CLEAN
    counted = [attack for attack in record.attacks if reference in (None, attack.spec)]
    found = [tier for attack in counted if (tier := attack_tier(attack, randomised=randomised)) is not None]
    if found and reference is not None:
        return REFERENCE_RANDOMISED if randomised else REFERENCE
    return min(found, default=None)


def lacking(records: Sequence[Record], *, randomised: bool, reference: str | None) -> str:
    """Return what a model lacks none of whose records, of which the newest is the last, leads to a tier."""
    if reference is not None:
        return f"a complete {reference}" + (", averaging over random answers" if randomised else "")
    found = next((reason for record in reversed(records) if (reason := incomplete(record))), "")
    complete = any(not incomplete(record) for record in records)
    if randomised and (complete or not found):
        return f"an attack that averages over random answers ({_AUTOATTACK_RAND})"
    return found


def is_clean(record: Record) -> bool:
    """Whether a record is one of clean accuracy alone."""
    return record.threat.eps == "0"


def over_radii(record: Record) -> bool:
    """Whether the attack was run at several radii together, which leaves out what follows from another radius."""
    if record.config is not None:
        return record.config.eps_grid is not None
    return any("eps_grid" in part for part in record.protocol)


def answers_at_random(record: Record) -> bool | None:
    """Whether a second pass over the same images gave other answers; None if there was none."""
    return next((check.verdict != "PASS" for check in record.checks if check.name == "deterministic"), None)


def standing_after(record: Record, place: int, store: ResultStore) -> NDArray[np.bool_] | None:
    """Return (n,) bool: which samples stand after the attack at ``place`` of a record and those before it.

    None where neither the record nor its verdicts show it: where a stage after the attack has the name of one
    up to it.
    """
    attack = record.attacks[place]
    if attack.standing:
        return unpack_standing(attack.standing, record.data.n)
    if place == len(record.attacks) - 1:
        return store.standing(record)
    before = _names(record.attacks[: place + 1])
    later = _names(record.attacks[place + 1 :])
    verdicts = store.verdicts(record).sort_values("index")
    broken_by = verdicts["broken_by"].fillna("").to_numpy()
    if np.isin(broken_by, sorted(before & later)).any():
        return None
    stands = ~np.isin(broken_by, sorted(before | {"clean"}))
    # Names that are not those of the stages would pass for attacks that came later.
    return stands if int(stands.sum()) == round(attack.robust_acc * record.data.n / 100) else None


def _names(attacks: Collection[AttackResult]) -> set[str]:
    return {name for attack in attacks for name in (attack.label, *(stage.name for stage in attack.stages))}
