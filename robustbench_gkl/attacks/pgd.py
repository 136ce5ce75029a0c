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
from robustbench_gkl.attacks.objectives import ObjectiveName, objective_for
from robustbench_gkl.config import ExactNumber
from robustbench_gkl.exact import format_fraction
from robustbench_gkl.noise import Noise
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
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Take ``steps`` steepest-ascent steps from ``start``, each projected onto the threat model.

    One forward and one backward pass a step.

    Args:
        model: images (B, C, H, W) in [0, 1] to logits (B, K).
        images: the originals, (B, C, H, W).
        threat: gives step and projection.
        objective: logits in float32 to one value per sample, which is maximised.
        start: (B, C, H, W), inside the threat model.
        steps: at least 1.
        step_size: length of a step in the threat's norm.
        watch: called with each point stepped from and the logits there.

    Returns:
        The last point, (B, C, H, W); it has not been evaluated.
    """
    point = start
    for _ in range(steps):
        logits, gradient = input_gradient(model, point, objective)
        if watch is not None:
            watch(point, logits)
        point = threat.project(point + threat.steepest(gradient, point, step_size), images)
    return point


@ATTACKS.register("pgd")
@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent from random starts (arXiv 1706.06083).

    A sample counts as broken at the first step at which it is misclassified, not only at the last.

    Args:
        steps: number of gradient steps.
        restarts: number of random starts in the ball.
        step_size: length of a step in the [0, 1] scale; None for 2.5 eps / steps.
        objective: ``ce`` or ``margin``.
    """

    name: ClassVar[str] = "pgd"

    steps: Annotated[int, Field(ge=1)] = 20
    restarts: Annotated[int, Field(ge=1)] = 1
    step_size: Annotated[ExactNumber, Field(gt=0)] | None = None
    objective: ObjectiveName = "ce"

    @property
    def label(self) -> str:
        """``pgd-20``, followed by what is not the default."""
        return ":".join(filter(None, (f"pgd-{self.steps}", self._changed(hide=["steps"]))))

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the settings with the step size resolved."""
        step_size = self.step_size or default_step_size(threat, self.steps)
        return super().settings(threat, num_classes=num_classes) | {"step_size": format_fraction(step_size)}

    def reference(self, threat: ThreatModel) -> Attack:
        """Return torchattacks' PGD or PGDL2 with the same steps."""
        from robustbench_gkl.attacks.external import torchattacks_pgd

        return torchattacks_pgd(self, threat)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        """Return the first misclassified point of each sample, or its last point."""
        step_size = float(self.step_size or default_step_size(threat, self.steps))
        objective = objective_for(self.objective, labels)
        best = images.clone()
        fooled = torch.zeros_like(labels, dtype=torch.bool)

        def watch(point: Tensor, logits: Tensor) -> None:
            new = (logits.argmax(1) != labels) & ~fooled
            best.copy_(torch.where(new[:, None, None, None], point, best))
            fooled.logical_or_(new)

        for restart in range(self.restarts):
            start = threat.random_start(images, noise.at("pgd", restart))
            last = ascend(
                model,
                images,
                threat,
                objective=objective,
                start=start,
                steps=self.steps,
                step_size=step_size,
                watch=watch,
            )
            if restart < self.restarts - 1:
                with torch.no_grad():
                    watch(last, model(last))
        return torch.where(fooled[:, None, None, None], best, last)


@ATTACKS.register("fgsm")
@dataclass(frozen=True)
class FGSM(Attack):
    """One steepest-ascent step of length eps from the image (arXiv 1412.6572).

    Args:
        objective: ``ce`` or ``margin``.
    """

    name: ClassVar[str] = "fgsm"

    objective: ObjectiveName = "ce"

    def reference(self, threat: ThreatModel) -> Attack:
        """Return torchattacks' FGSM."""
        from robustbench_gkl.attacks.external import torchattacks_fgsm

        return torchattacks_fgsm(self, threat)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        """Return the image one step away."""
        objective = objective_for(self.objective, labels)
        return ascend(model, images, threat, objective=objective, start=images, steps=1, step_size=threat.radius)
