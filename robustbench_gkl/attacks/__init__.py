"""Attacks: the specs are values that need no torch; the searches that they name are imported when they run."""

from robustbench_gkl.attacks.specs import (
    ATTACKS,
    AttackSpec,
    SearchSpec,
    attacks_to_run,
    canonical_specs,
    parse_attack,
    protocol_of,
)

__all__ = ["ATTACKS", "AttackSpec", "SearchSpec", "attacks_to_run", "canonical_specs", "parse_attack", "protocol_of"]
