"""Attack specs: values with an attack's options and cost. Imports no torch; each file registers a family."""

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
