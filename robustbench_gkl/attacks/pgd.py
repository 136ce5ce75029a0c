"""Projected gradient descent (Madry et al., arXiv 1706.06083) and its single step, FGSM (arXiv 1412.6572)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model, input_gradient
from robustbench_gkl.attacks.objectives import untargeted
from robustbench_gkl.attacks.search.slots import Answer, Batch, Rows, Search, Space
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
