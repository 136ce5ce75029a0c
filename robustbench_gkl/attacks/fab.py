"""FAB, the fast adaptive boundary attack (Croce and Hein, arXiv 1907.02044)."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.hyperplane import Hyperplanes
from robustbench_gkl.attacks.objectives import margin, targeted_margin
from robustbench_gkl.attacks.search.slots import Space, Starts, as_rows, column
from robustbench_gkl.attacks.search.step_and_test import StepAndTestSearch
from robustbench_gkl.attacks.specs.fab import ALPHA_MAX, BETA, ETA, FAB, TargetedFAB


class FABSearch(StepAndTestSearch):
    """FAB for all norms (algorithm 1 of the paper).

    A step goes past the linearised boundary of the nearest class, or of the target. Where that is a success, the
    point is brought back to the share BETA of its distance from the original.
    """

    def __init__(self, space: Space, *, steps: int, targeted: bool) -> None:
        super().__init__(space, steps=steps, draw_back=BETA)
        self.targeted = targeted
        self.halfway = self.threat.with_eps(self.threat.eps / 2)

    def start(self, starts: Starts) -> Tensor:
        """Start at the image, (B, C, H, W); in later untargeted runs at random, half a radius from it."""
        if starts.run == 0 or self.targeted:
            return starts.images
        return self.halfway.sphere_start(starts.images, starts.noise)

    def objective(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Return z_t - z_y for the target t, or the margin, (B,)."""
        return targeted_margin(logits, labels, targets) if self.targeted else margin(logits, labels)

    def slope(self, logits: Tensor, labels: Tensor, targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_k - z_y (B,) and its gradient (B, C, H, W) for the class k whose linearised boundary is nearest.

        That of the target where there is one. The distance to the boundary of k is |z_k - z_y| over the dual norm of
        its gradient.
        """
        if self.targeted:
            return super().slope(logits, labels, targets, points)
        nearest = torch.full_like(logits[:, 0], torch.inf)
        value, slope = torch.zeros_like(nearest), torch.zeros_like(points)
        for k, (gap, gradient) in enumerate(_gaps(logits, labels, points)):
            length = self.threat.dual_length(gradient)
            distance = torch.where(labels == k, torch.inf, gap.abs() / length.clamp_min(1e-12))
            nearer = distance < nearest
            nearest = torch.where(nearer, distance, nearest)
            value = torch.where(nearer, gap, value)
            slope = torch.where(column(nearer), gradient, slope)
        return value, slope

    def stepped(self, point: Tensor, origin: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next points, (B, D), and their distances from the originals, (B,).

        That is (1 - alpha) (x + eta d) + alpha (x_0 + eta d_0), clamped to [0, 1], with the shortest steps d and d_0
        to the linearised boundary from the point x (B, D) and from the original x_0 (B, D). Their lengths give alpha.
        """
        behind = torch.sub(origin, point).mul_(gradient).sum(1).add_(value)
        planes, offset = Hyperplanes(gradient, norm=self.threat.norm), torch.stack([value, behind])
        amounts = planes.amounts((point, origin), offset)
        near, far = self.threat.geometry.length_of_sizes(amounts.flatten(0, 1)).clamp_min_(1e-8).view(2, -1)
        alpha = (near / (near + far)).clamp_max_(ALPHA_MAX)
        # The mean of both ends, which lie past the hyperplane, is the mean of both beginnings and of both steps.
        share = torch.stack([1 - alpha, alpha]).mul_(offset.sign()).mul_(-ETA)[..., None]
        step = amounts[0].mul_(share[0]).addcmul_(amounts[1], share[1])
        ahead = point.lerp_(origin, alpha[:, None]).addcmul_(step, planes.sign).clamp_(0, 1)
        return ahead, self.threat.length(torch.sub(ahead, origin, out=step))

    def step_compiled(
        self, kernels: ModuleType, slots: np.ndarray, value: Tensor, gradient: Tensor, places: np.ndarray
    ) -> None:
        """Take the same steps in the memory of ``slots`` (B,), given (n,), (n, C, H, W) and their places there."""
        state = as_rows(self.point), as_rows(self.origin), self.distance.numpy()
        slopes, order = as_rows(gradient.contiguous()), self.threat.geometry.order
        kernels.fab_step(*state, slots, value.numpy(), slopes, places, order, ETA, ALPHA_MAX)


def _gaps(logits: Tensor, labels: Tensor, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield z_k - z_y (B,) and its gradient (B, C, H, W) for each class k; one backward pass each."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    classes = logits.shape[1]
    for k in range(classes):
        gap = logits[:, k] - true
        (gradient,) = torch.autograd.grad(gap.sum(), points, retain_graph=k < classes - 1)
        yield gap.detach(), gradient


def fab_search(space: Space, spec: FAB | TargetedFAB) -> FABSearch:
    """Return the search, untargeted or towards each run's target."""
    return FABSearch(space, steps=spec.steps, targeted=spec.targeted)
