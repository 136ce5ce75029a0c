"""Attacks. Each file registers one family; specs such as ``pgd:steps=20`` are read by :func:`parse_attack`."""

from robustbench_gkl.attacks.base import (
    ATTACKS,
    Attack,
    Model,
    attack_mode,
    full_logits,
    input_gradient,
    parse_attack,
    protocol_of,
)

__all__ = ["ATTACKS", "Attack", "Model", "attack_mode", "full_logits", "input_gradient", "parse_attack", "protocol_of"]
