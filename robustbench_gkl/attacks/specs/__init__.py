"""Attack specs: values that say what an attack is and what it costs. Imports no torch; each file registers a family."""

from robustbench_gkl.attacks.specs.base import (
    ATTACKS,
    AttackSpec,
    Ball,
    SearchSpec,
    attacks_to_run,
    canonical_specs,
    parse_attack,
    protocol_of,
)

__all__ = [
    "ATTACKS",
    "AttackSpec",
    "Ball",
    "SearchSpec",
    "attacks_to_run",
    "canonical_specs",
    "parse_attack",
    "protocol_of",
]
