"""The spec of no attack at all: clean accuracy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball
from robustbench_gkl.core.calls import Calls


@ATTACKS.register("none")
@dataclass(frozen=True)
class NoAttack(AttackSpec):
    """No attack: clean accuracy alone."""

    name: ClassVar[str] = "none"
    family: ClassVar[str] = "none"
    gradients: ClassVar[bool] = False

    def stages(self, threat: Ball, *, num_classes: int) -> tuple[AttackSpec, ...]:
        """Return nothing: no image is attacked."""
        return ()

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return nothing: clean predictions are no part of an attack."""
        return Calls()

    def reference(self, threat: Ball) -> AttackSpec:
        """Return itself."""
        return self
