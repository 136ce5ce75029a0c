"""The spec of the Square attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball, Count, SearchSpec
from robustbench_gkl.attacks.specs.pyautoattack import published_member
from robustbench_gkl.core.calls import Calls

P_INIT = 0.8
"""The first window's share of the pixels."""


@ATTACKS.register("square")
@dataclass(frozen=True)
class Square(SearchSpec):
    """Square Attack, a random search without gradients (arXiv 1912.00049).

    Args:
        queries: number of steps after the first image.
        restarts: number of starts.
    """

    name: ClassVar[str] = "square"
    family: ClassVar[str] = "square"
    gradients: ClassVar[bool] = False
    searcher: ClassVar[str] = "robustbench_gkl.attacks.square:square_search"
    looks_ahead: ClassVar[bool] = True

    queries: Count = 5000
    restarts: Count = 1

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the first window's share too."""
        return super().settings(threat, num_classes=num_classes) | {"p_init": P_INIT}

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return a forward pass a query, and one on the first image."""
        return Calls(forwards=self.queries * self.restarts + 1)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return pyautoattack's."""
        return published_member(self, published=self == Square())

    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return the restarts."""
        return self.restarts
