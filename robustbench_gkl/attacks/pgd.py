"""Projected gradient descent (Madry et al., arXiv 1706.06083) and its single step, FGSM (arXiv 1412.6572)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from robustbench_gkl.attacks.model import Model, input_gradient
from robustbench_gkl.attacks.objectives import untargeted
from robustbench_gkl.attacks.search.gradient import GradientSearch
from robustbench_gkl.attacks.search.slots import Rows, Space, Starts
from robustbench_gkl.attacks.specs.objectives import ObjectiveName
from robustbench_gkl.attacks.specs.pgd import FGSM, PGD
from robustbench_gkl.core.threat import ThreatModel


def ascend(
    model: Model,
    images: Tensor,
    threat: ThreatModel,
    *,
    objective: Callable[[Tensor, Tensor], Tensor],
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
        objective: points (B, C, H, W) and the logits there to one value per sample, (B,), which is maximised.
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


class PGDSearch(GradientSearch):
    """The same steps, x <- P(x + a s(g)), for samples that are at different steps.

    s(g) is the direction of steepest ascent of the objective (for linf the sign of its gradient g), a the step size,
    and P the projection onto the threat model.
    """

    def __init__(
        self, space: Space, *, objective: ObjectiveName, steps: int, step_size: float, random_start: bool
    ) -> None:
        super().__init__(space, steps=steps)
        self.loss = untargeted(objective, num_classes=space.num_classes)
        self.step_size, self.random_start = step_size, random_start
        self.feasible = self.feasible_set()

    def start(self, rows: Rows, starts: Starts) -> Tensor:
        """Start at random in the ball, or at the images, (B, C, H, W)."""
        self.feasible.put(rows.device, starts.images)
        return self.threat.random_start(starts.images, starts.noise) if self.random_start else starts.images

    def objective(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Return the chosen objective, (B,)."""
        return self.loss(logits, labels)

    def ascend(self, step: np.ndarray, value: Tensor, gradient: Tensor) -> None:
        """Step in place from the points of the first B slots, along ``gradient`` (B, C, H, W)."""
        for block in self.blocks(len(step)):
            x, feasible = self.point[block], self.feasible[block]
            feasible.ascend(x, gradient[block], self.step_size, out=x)
            feasible.project_(x)


def pgd_search(space: Space, spec: PGD) -> PGDSearch:
    """Return the search of ``spec`` with the step size resolved."""
    return PGDSearch(
        space,
        objective=spec.objective,
        steps=spec.steps,
        step_size=float(spec.step(space.threat)),
        random_start=spec.random_start,
    )


def fgsm_search(space: Space, spec: FGSM) -> PGDSearch:
    """Return one step of the whole radius."""
    return PGDSearch(space, objective=spec.objective, steps=1, step_size=space.threat.radius, random_start=False)
