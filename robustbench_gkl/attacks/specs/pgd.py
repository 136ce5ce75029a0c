"""Specs of projected gradient descent and of FGSM."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import Field

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball, Count, SearchSpec
from robustbench_gkl.attacks.specs.objectives import ObjectiveName, substitution
from robustbench_gkl.attacks.specs.torchattacks import torch_attack
from robustbench_gkl.core.calls import Calls
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import ExactNumber, format_fraction


def default_step_size(threat: Ball, steps: int) -> Fraction:
    """Return 2.5 eps / steps, with which the far side of the ball can be reached (arXiv 1706.06083)."""
    return Fraction(5, 2) * threat.eps / steps


@ATTACKS.register("pgd")
@dataclass(frozen=True)
class PGD(SearchSpec):
    """Projected gradient descent from random starts (arXiv 1706.06083).

    A sample counts as broken at the first step at which it is misclassified, not only at the last.

    Args:
        steps: number of gradient steps.
        restarts: number of starts.
        step_size: length of a step in the [0, 1] scale; None for 2.5 eps / steps.
        objective: ``ce``, ``margin``, ``prob-margin`` or ``dlr``.
        random_start: begin anywhere in the ball, not at the image.
    """

    name: ClassVar[str] = "pgd"
    family: ClassVar[str] = "pgd"
    searcher: ClassVar[str] = "robustbench_gkl.attacks.pgd:pgd_search"

    steps: Count = 20
    restarts: Count = 1
    step_size: Annotated[ExactNumber, Field(gt=0)] | None = None
    objective: ObjectiveName = "ce"
    random_start: bool = True

    @property
    def label(self) -> str:
        """``pgd-20``, followed by what is not the default."""
        return ":".join(filter(None, (f"pgd-{self.steps}", self._changed(hide=["steps"]))))

    @property
    def brief(self) -> str:
        """``pgd:steps=20``, followed by what is not the default."""
        return ",".join(filter(None, (f"pgd:steps={self.steps}", self._changed(hide=["steps"]))))

    @property
    def length(self) -> int:
        """The number of gradient steps."""
        return self.steps

    def step(self, threat: Ball) -> Fraction:
        """Return the length of a step in the threat's norm."""
        return self.step_size or default_step_size(threat, self.steps)

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the settings with the step size resolved, and the objective that stands in for one."""
        resolved = {"step_size": format_fraction(self.step(threat))}
        replaced = substitution(self.objective, num_classes=num_classes)
        return super().settings(threat, num_classes=num_classes) | resolved | replaced

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return a forward and a backward pass a step, and a forward pass on the last point of each restart."""
        every = self.steps * self.restarts
        return Calls(forwards=every + self.restarts, backwards=every)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return torchattacks' PGD or PGDL2 with the same steps."""
        if threat.norm == "l1" or self.restarts > 1 or self.objective != "ce":
            raise UserError(
                "--engine reference runs pgd for linf and l2 with restarts=1 and objective=ce, "
                f"got {self.label} for {threat.norm}; use --engine native"
            )
        cls = {"linf": "PGD", "l2": "PGDL2"}[threat.norm]
        return torch_attack(
            cls, alpha=repr(float(self.step(threat))), steps=str(self.steps), random_start=str(self.random_start)
        )

    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return the restarts."""
        return self.restarts


@ATTACKS.register("fgsm")
@dataclass(frozen=True)
class FGSM(SearchSpec):
    """One steepest-ascent step of length eps from the image (arXiv 1412.6572).

    Args:
        objective: ``ce``, ``margin``, ``prob-margin`` or ``dlr``.
    """

    name: ClassVar[str] = "fgsm"
    family: ClassVar[str] = "fgsm"
    searcher: ClassVar[str] = "robustbench_gkl.attacks.pgd:fgsm_search"

    objective: ObjectiveName = "ce"

    @property
    def length(self) -> int:
        """One step."""
        return 1

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the objective, or what stands in for it."""
        return super().settings(threat, num_classes=num_classes) | substitution(self.objective, num_classes=num_classes)

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return a forward and a backward pass, and a forward pass on the point that they lead to."""
        return Calls(forwards=2, backwards=1)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return torchattacks' FGSM."""
        if threat.norm != "linf" or self.objective != "ce":
            raise UserError(
                f"--engine reference runs fgsm for linf with objective=ce, got {self.label} for {threat.norm}"
            )
        return torch_attack("FGSM")

    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return 1."""
        return 1
