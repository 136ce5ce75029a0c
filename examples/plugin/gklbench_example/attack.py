"""The spec of an attack. It imports no torch, so that a suite can look at it at no cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball, Count
from robustbench_gkl.core.calls import Calls


@ATTACKS.register("example-corners")
@dataclass(frozen=True)
class Corners(AttackSpec):
    """Random corners of the ball, without gradients.

    Args:
        tries: corners for each sample.
    """

    name: ClassVar[str] = "example-corners"
    family: ClassVar[str] = "random"
    gradients: ClassVar[bool | None] = False
    runner: ClassVar[str] = "gklbench_example.corners:propose"

    tries: Count = 20

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return a forward pass a corner."""
        return Calls(forwards=self.tries)
