"""FAB, the fast adaptive boundary attack (Croce and Hein, arXiv 1907.02044)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.hyperplane import Hyperplanes
from robustbench_gkl.attacks.objectives import margin, targeted_margin
from robustbench_gkl.attacks.search.slots import Answer, Batch, Rows, Search, Space, column, put_rows, take_rows
from robustbench_gkl.attacks.specs.fab import ALPHA_MAX, BETA, ETA, FAB, TargetedFAB

_DUAL = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


class FABSearch(Search):
    """FAB for all norms.

    A step asks twice: for the gradient at the current point, then whether the point that the step leads to is
    misclassified (the *test*). If it is, the point is drawn back and the gradient is asked for there. If it is not,
    the next gradient is due at the very same point. To ask for it together with the test would save a forward pass
    then, but waste a backward pass otherwise, which costs more: most tests succeed.
    """

    splits = True

    def __init__(self, space: Space, *, steps: int, targeted: bool) -> None:
        super().__init__(space, length=steps)
        self.steps, self.targeted = steps, targeted
        self.origin, self.point = self.image("origin"), self.image("point")
        self.targets = self.scalar("targets", dtype=torch.int64)
        self.distance = self.scalar("distance")
        self.testing = np.zeros(space.slots, dtype=bool)

    @property
    def query(self) -> Tensor:
        """The current points."""
        return self.point

    def host(self) -> list[np.ndarray]:
        """Return the phases too."""
        return [*super().host(), self.testing]

    def begin(self, rows: Rows, batch: Batch) -> None:
        """Start at the image; in later untargeted runs at random, half a radius from it."""
        if batch.target is not None:
            self.targets[rows.device] = batch.target
        self.origin[rows.device] = batch.images
        start = batch.images
        if batch.run > 0 and not self.targeted:
            start = self._random_start(batch)
        self.point[rows.device] = start
        self.distance[rows.device] = self.threat.length(start - batch.images)
        self.step[rows.host] = 0
        self.testing[rows.host] = False
        self.wants_gradient[rows.host] = True

    def _random_start(self, batch: Batch) -> Tensor:
        shape = batch.images.shape[1:]
        uniform = self.threat.norm == "linf"
        direction = 2 * batch.noise.uniform(*shape) - 1 if uniform else batch.noise.normal(*shape)
        length = self.threat.length(direction).clamp_min_(1e-12)
        return (batch.images + direction * column(self.threat.radius / 2 / length)).clamp_(0, 1)

    def leftover(self, rows: Rows) -> Tensor:
        """Return the originals: the search looks outside the ball too."""
        return self.origin[rows.device]

    def counts(self, rows: Rows, wrong: np.ndarray) -> np.ndarray:
        """Return those inside the ball; a shortest perturbation beyond eps is no success."""
        meant: np.ndarray = wrong & (self.distance[rows.device] <= self.threat.radius).cpu().numpy()
        return meant

    def objective(self, rows: Rows, logits: Tensor) -> Tensor:
        """Return z_t - z_y, or the margin."""
        labels = self.labels[rows.device]
        return targeted_margin(logits, labels, self.targets[rows.device]) if self.targeted else margin(logits, labels)

    def slope(self, rows: Rows, logits: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_k - z_y and its gradient for the target k, or for the class with the nearest linearised boundary."""
        if self.targeted:
            return super().slope(rows, logits, points)
        labels = self.labels[rows.device]
        nearest = torch.full_like(logits[:, 0], torch.inf)
        value, slope = torch.zeros_like(nearest), torch.zeros_like(points)
        for k, (gap, gradient) in enumerate(_gaps(logits, labels, points)):
            length = torch.linalg.vector_norm(gradient.flatten(1), ord=_DUAL[self.threat.norm], dim=1)
            distance = torch.where(labels == k, torch.inf, gap.abs() / length.clamp_min(1e-12))
            nearer = distance < nearest
            nearest = torch.where(nearer, distance, nearest)
            value = torch.where(nearer, gap, value)
            slope = torch.where(column(nearer), gradient, slope)
        return value, slope

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Judge the tests, then step wherever a gradient is known at the current point."""
        tested = self.testing[rows.host]
        failed = tested & ~answer.wrong
        self._draw_back(rows, tested & answer.wrong)
        ready = np.zeros_like(tested) if answer.gradient is None else ~tested | failed
        over = self.step[rows.host] == self.steps
        self.finished[rows.host] = tested & over
        if answer.gradient is not None and answer.value is not None:
            for at, local in self._blocks_where(rows, ready):
                self._move(at, answer.value[local], answer.gradient[local])
        self.step[rows.host] += ready
        self.testing[rows.host] = ready
        self.wants_gradient[rows.host] = ~ready

    def _draw_back(self, rows: Rows, found: np.ndarray) -> None:
        if isinstance(rows.host, slice) and found.any():
            # Those that stay have weight 1, which costs less than to pick out the others.
            weight = torch.from_numpy(np.where(found, BETA, 1.0)).float().to(self.space.device)
            for block in self.blocks(len(found)):
                torch.lerp(self.origin[block], self.point[block], column(weight[block]), out=self.point[block])
            self.distance[rows.device] *= weight
            return
        for at, _ in self._blocks_where(rows, found):
            put_rows(self.point, at, take_rows(self.origin, at).lerp(take_rows(self.point, at), BETA))
            self.distance[at] *= BETA

    def _blocks_where(self, rows: Rows, chosen: np.ndarray) -> Iterator[tuple[slice | Tensor, slice | Tensor]]:
        """Yield the chosen ones of ``rows`` piece by piece: their slots, and their places in the answer."""
        if isinstance(rows.host, slice) and chosen.all():
            for block in self.blocks(len(chosen)):
                yield block, block
            return
        places, slots = chosen.nonzero()[0], rows.where(chosen)
        for block in self.blocks(len(places)):
            device = self.space.device
            yield torch.from_numpy(slots[block]).to(device), torch.from_numpy(places[block]).to(device)

    def _move(self, at: slice | Tensor, value: Tensor, slope: Tensor) -> None:
        """Go past the boundary's linearisation, from the point and, with a small weight, from the original."""
        point, origin = (take_rows(images, at).flatten(1) for images in (self.point, self.origin))
        normal = slope.flatten(1)
        behind = torch.sub(origin, point).mul_(normal).sum(1).add_(value)
        planes, offset = Hyperplanes(normal, norm=self.threat.norm), torch.stack([value, behind])
        amounts = planes.amounts((point, origin), offset)
        near, far = self.threat.length(amounts.flatten(0, 1)).clamp_min_(1e-8).view(2, -1)
        alpha = (near / (near + far)).clamp_max_(ALPHA_MAX)
        # The mean of both ends, which lie past the hyperplane, is the mean of both beginnings and of both steps.
        share = torch.stack([1 - alpha, alpha]).mul_(offset.sign()).mul_(-ETA)[..., None]
        step = amounts[0].mul_(share[0]).addcmul_(amounts[1], share[1])
        ahead = point.lerp_(origin, alpha[:, None]).addcmul_(step, planes.sign).clamp_(0, 1)
        put_rows(self.point, at, ahead.view(slope.shape))
        self.distance[at] = self.threat.length(torch.sub(ahead, origin, out=step))


def _gaps(logits: Tensor, labels: Tensor, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield z_k - z_y (B,) and its gradient for each class k; one backward pass each."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    classes = logits.shape[1]
    for k in range(classes):
        gap = logits[:, k] - true
        (gradient,) = torch.autograd.grad(gap.sum(), points, retain_graph=k < classes - 1)
        yield gap.detach(), gradient


def fab_search(space: Space, spec: FAB | TargetedFAB) -> FABSearch:
    """Return the search, untargeted or towards each run's target."""
    return FABSearch(space, steps=spec.steps, targeted=spec.targeted)
