"""Projected gradient descent (Madry et al., arXiv 1706.06083) and its single step, FGSM (arXiv 1412.6572)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_gkl.attacks.base import ATTACKS, Attack, Model, input_gradient
from robustbench_gkl.attacks.native import SearchAttack
from robustbench_gkl.attacks.objectives import ObjectiveName, substitution, untargeted
from robustbench_gkl.attacks.search import Answer, Batch, Rows, Search, Space
from robustbench_gkl.config import ExactNumber
from robustbench_gkl.exact import format_fraction
from robustbench_gkl.threat import ThreatModel


def default_step_size(threat: ThreatModel, steps: int) -> Fraction:
    """Return 2.5 eps / steps, with which the far side of the ball can be reached (arXiv 1706.06083)."""
    return Fraction(5, 2) * threat.eps / steps


def ascend(
    model: Model,
    images: Tensor,
    threat: ThreatModel,
    *,
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    step_size: float,
) -> Tensor:
    """Take ``steps`` steepest-ascent steps from ``start``, each projected onto the threat model.

    One forward and one backward pass a step.

    Args:
        model: images (B, C, H, W) in [0, 1] to logits (B, K).
        images: the originals, (B, C, H, W).
        threat: gives step and projection.
        objective: logits to one value per sample, (B,), which is maximised.
        start: (B, C, H, W), inside the threat model.
        steps: at least 1.
        step_size: length of a step in the threat's norm.

    Returns:
        The last point, (B, C, H, W); it has not been evaluated.
    """
    point = start
    for _ in range(steps):
        gradient = input_gradient(model, point, objective)
        point = threat.project(point + threat.steepest(gradient, point, step_size), images)
    return point


class PGDSearch(Search):
    """Steepest ascent with a fixed step size."""

    def __init__(
        self, space: Space, *, objective: ObjectiveName, steps: int, step_size: float, random_start: bool
    ) -> None:
        super().__init__(space, length=steps)
        self._objective = untargeted(objective, num_classes=space.num_classes)
        self.steps, self.step_size, self.random_start = steps, step_size, random_start
        self.point = self.image("point")
        if self.threat.norm == "linf":
            self.low, self.high = self.image("low"), self.image("high")
        else:
            self.origin = self.image("origin")

    @property
    def query(self) -> Tensor:
        """The current points."""
        return self.point

    def begin(self, rows: Rows, batch: Batch) -> None:
        """Start at random in the ball, or at the images."""
        if self.threat.norm == "linf":
            self.low[rows.device] = (batch.images - self.threat.radius).clamp_(0, 1)
            self.high[rows.device] = (batch.images + self.threat.radius).clamp_(0, 1)
        else:
            self.origin[rows.device] = batch.images
        start = self.threat.random_start(batch.images, batch.noise) if self.random_start else batch.images
        self.point[rows.device] = start
        self.step[rows.host] = 0
        self.wants_gradient[rows.host] = True

    def objective(self, rows: Rows, logits: Tensor) -> Tensor:
        """Return the chosen objective."""
        return self._objective(logits, self.labels[rows.device])

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Take a step; the point after the last step is asked about without a gradient."""
        assert isinstance(rows.device, slice)
        self.finished[rows.host] = self.step[rows.host] == self.steps
        self.step[rows.host] += 1
        self.wants_gradient[rows.host] = self.step[rows.host] < self.steps
        if answer.gradient is None:
            return
        for block in self.blocks(len(answer.wrong)):
            point, gradient = self.point[block], answer.gradient[block]
            if self.threat.norm == "linf":
                point.add_(gradient.sign_(), alpha=self.step_size)
                torch.clamp(point, self.low[block], self.high[block], out=point)
            else:
                point.add_(self.threat.steepest(gradient, point, self.step_size))
                point.copy_(self.threat.project(point, self.origin[block]))


@ATTACKS.register("pgd")
@dataclass(frozen=True)
class PGD(SearchAttack):
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

    steps: Annotated[int, Field(ge=1)] = 20
    restarts: Annotated[int, Field(ge=1)] = 1
    step_size: Annotated[ExactNumber, Field(gt=0)] | None = None
    objective: ObjectiveName = "ce"
    random_start: bool = True

    @property
    def label(self) -> str:
        """``pgd-20``, followed by what is not the default."""
        return ":".join(filter(None, (f"pgd-{self.steps}", self._changed(hide=["steps"]))))

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the settings with the step size resolved, and the objective that stands in for one."""
        step_size = self.step_size or default_step_size(threat, self.steps)
        resolved = {"step_size": format_fraction(step_size)} | substitution(self.objective, num_classes=num_classes)
        return super().settings(threat, num_classes=num_classes) | resolved

    def reference(self, threat: ThreatModel) -> Attack:
        """Return torchattacks' PGD or PGDL2 with the same steps."""
        from robustbench_gkl.attacks.external import torchattacks_pgd

        return torchattacks_pgd(self, threat)

    def runs(self, threat: ThreatModel, *, num_classes: int) -> int:
        """Return the restarts."""
        return self.restarts

    def search(self, space: Space) -> PGDSearch:
        """Return a search with the step size resolved."""
        step_size = float(self.step_size or default_step_size(space.threat, self.steps))
        return PGDSearch(
            space, objective=self.objective, steps=self.steps, step_size=step_size, random_start=self.random_start
        )


@ATTACKS.register("fgsm")
@dataclass(frozen=True)
class FGSM(SearchAttack):
    """One steepest-ascent step of length eps from the image (arXiv 1412.6572).

    Args:
        objective: ``ce``, ``margin``, ``prob-margin`` or ``dlr``.
    """

    name: ClassVar[str] = "fgsm"

    objective: ObjectiveName = "ce"

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the objective, or what stands in for it."""
        return super().settings(threat, num_classes=num_classes) | substitution(self.objective, num_classes=num_classes)

    def reference(self, threat: ThreatModel) -> Attack:
        """Return torchattacks' FGSM."""
        from robustbench_gkl.attacks.external import torchattacks_fgsm

        return torchattacks_fgsm(self, threat)

    def runs(self, threat: ThreatModel, *, num_classes: int) -> int:
        """Return 1."""
        return 1

    def search(self, space: Space) -> PGDSearch:
        """Return one step of the whole radius."""
        return PGDSearch(space, objective=self.objective, steps=1, step_size=space.threat.radius, random_start=False)
