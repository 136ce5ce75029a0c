"""Specs of FAB, the fast adaptive boundary attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball, Count, SearchSpec
from robustbench_gkl.attacks.specs.pyautoattack import published_member
from robustbench_gkl.core.calls import Calls

ALPHA_MAX = 0.1
"""Greatest weight of the original image in a step."""
ETA = 1.05
"""How far a step overshoots the hyperplane."""
BETA = 0.9
"""A misclassified point is brought back towards the original to this share of its distance."""

_CONSTANTS = {"alpha_max": ALPHA_MAX, "eta": ETA, "beta": BETA}


@ATTACKS.register("fab")
@dataclass(frozen=True)
class FAB(SearchSpec):
    """FAB, a minimal-distance attack on the nearest class (arXiv 1907.02044).

    Each step costs a backward pass per class.

    Args:
        steps: number of steps.
        restarts: the first from the image, the others from random points; 5 if not given.
    """

    name: ClassVar[str] = "fab"
    family: ClassVar[str] = "fab"
    searcher: ClassVar[str] = "robustbench_gkl.attacks.fab:fab_search"
    kernels_save: ClassVar[float] = 4e-9

    steps: Count = 100
    restarts: Count = 5

    @property
    def length(self) -> int:
        """The number of steps."""
        return self.steps

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the constants too."""
        return super().settings(threat, num_classes=num_classes) | _CONSTANTS

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return, for each step, a gradient of a backward pass a class, and a test of the point that it leads to."""
        every = self.steps * self.restarts
        return Calls(forwards=2 * every, backwards=num_classes * every)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return pyautoattack's."""
        return published_member(self, published=self == FAB())

    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return the restarts."""
        return self.restarts


@ATTACKS.register("fab-t")
@dataclass(frozen=True)
class TargetedFAB(SearchSpec):
    """Targeted FAB: towards each of the likeliest other classes in turn (arXiv 2003.01690).

    Args:
        steps: number of steps.
        targets: number of classes, no more than there are.
    """

    name: ClassVar[str] = "fab-t"
    family: ClassVar[str] = "fab"
    targeted: ClassVar[bool] = True
    searcher: ClassVar[str] = "robustbench_gkl.attacks.fab:fab_search"
    kernels_save: ClassVar[float] = 4e-9

    steps: Count = 100
    targets: Count = 9

    @property
    def length(self) -> int:
        """The number of steps."""
        return self.steps

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the constants and the number of targets there are."""
        targets = {"targets": self.runs(threat, num_classes=num_classes)}
        return super().settings(threat, num_classes=num_classes) | _CONSTANTS | targets

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return a gradient and a test a step."""
        every = self.steps * self.runs(threat, num_classes=num_classes)
        return Calls(forwards=2 * every, backwards=every)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return pyautoattack's."""
        return published_member(self, published=self == TargetedFAB())

    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return the number of targets."""
        return min(self.targets, num_classes - 1)
