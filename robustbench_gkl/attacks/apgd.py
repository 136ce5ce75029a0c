"""Auto-PGD (Croce and Hein, arXiv 2003.01690); its variant for l1 is in :mod:`robustbench_gkl.attacks.sparse_apgd`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.objectives import Objective, targeted, untargeted
from robustbench_gkl.attacks.search.gradient import BestPoints, GradientSearch
from robustbench_gkl.attacks.search.slots import Rows, Space, Starts, column
from robustbench_gkl.attacks.sparse_apgd import SparseAPGDSearch
from robustbench_gkl.attacks.specs.apgd import APGD, RHO, TargetedAPGD
from robustbench_gkl.core.device import sent

MOMENTUM = 0.75


def checkpoints(steps: int) -> dict[int, int]:
    """Return the steps after which the step size may be halved, and the length of the window that each ends.

    Windows are 22 % of the steps, then 3 % shorter each time, but no shorter than 6 % (section 3.2 of the paper).
    """
    window, least, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    found, at = {}, window
    while at <= steps:
        found[at] = window
        window = max(window - shorter, least)
        at += window
    return found


class APGDSearch(GradientSearch):
    """APGD for linf and l2 (algorithm 1 of the paper).

    The step size is 2 eps at first. At checkpoints it is halved and the search goes back to the best point, where one
    of two conditions holds: the objective rose in too few of the steps since the last checkpoint, or the best value is
    still that of the last checkpoint, and the step size was not halved there.
    """

    def __init__(self, space: Space, *, loss: Objective, steps: int, evaluations: int = 1) -> None:
        super().__init__(space, steps=steps)
        self.loss, self.evaluations = loss, evaluations
        self.feasible = self.feasible_set()
        self.previous, self.best = self.image(), BestPoints(self)
        self.step_size, self.rises, self.last_value = self.scalar(), self.scalar(), self.scalar()
        self.checked_value, self.halved = self.scalar(), self.scalar(dtype=torch.bool)
        self.windows = np.zeros(steps + 1, dtype=np.int64)
        for at, window in checkpoints(steps).items():
            self.windows[at] = window

    def objective(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Return the loss that is maximised, (B,)."""
        return self.loss(logits, labels, targets)

    def start(self, rows: Rows, starts: Starts) -> Tensor:
        """Start on the sphere of radius eps at random, clamped to [0, 1], (B, C, H, W)."""
        at, start = rows.device, self.threat.sphere_start(starts.images, starts.noise)
        self.feasible.put(at, starts.images)
        self.previous[at] = start
        self.step_size[at] = 2 * self.threat.radius
        self.best.forget(at)
        self.last_value[at] = torch.inf  # the first answer is no rise
        self.rises[at] = 0
        self.halved[at] = True  # the first checkpoint has only the first condition
        return start

    def ascend(self, step: np.ndarray, value: Tensor, gradient: Tensor) -> None:
        """Keep the best points, adapt the step size at checkpoints, and step with momentum.

        Given the number of steps taken (B,), the objective (B,) and its gradient (B, C, H, W).
        """
        self.best.update(self.point, value, gradient)
        self.rises[: len(step)] += value > self.last_value[: len(step)]
        self.last_value[: len(step)] = value
        window = self.windows[step]
        if window.any():
            due = sent(torch.from_numpy(window.nonzero()[0]), value.device)
            self._check(due, sent(torch.from_numpy(window[window > 0]), value.device), gradient)
        self._move(step, gradient)

    def _check(self, slots: Tensor, window: Tensor, gradient: Tensor) -> None:
        """Halve the step sizes of ``slots`` (n,) at the ends of windows (n,) if need be, and go back to the best."""
        seldom = self.rises[slots] <= RHO * window
        stuck = ~self.halved[slots] & (self.checked_value[slots] >= self.best.value[slots])
        halve = seldom | stuck
        self.halved[slots] = halve
        self.checked_value[slots] = self.best.value[slots]
        self.rises[slots] = 0
        self.step_size[slots] *= torch.where(halve, 0.5, 1.0)
        self.best.restore(slots, halve, self.point, gradient)

    def _move(self, step: np.ndarray, gradient: Tensor) -> None:
        """Step in place: z = P(x + eta s(g)), then x <- P(x + a (z - x) + (1 - a) (x - x_old)).

        s(g) is the direction of steepest ascent, eta the step size, and a is 1 in the first step of a run. With
        u = 2 x - x_old the next point is P(u + a (z - u)); it is written over the previous one.
        """
        weight = sent(torch.from_numpy(np.where(step == 0, 1.0, MOMENTUM)).float(), gradient.device)
        for block in self.blocks(len(step)):
            x, following, feasible = self.point[block], self.previous[block], self.feasible[block]
            z = feasible.ascend(x, gradient[block], column(self.step_size[block]), out=gradient[block])
            feasible.project_(z)
            following.lerp_(x, 2.0).lerp_(z, column(weight[block]))
            feasible.project_(following)
        self.point, self.previous = self.previous, self.point

    def leftover(self, rows: Rows) -> Tensor:
        """Return the points of the greatest objective, (B, C, H, W)."""
        return self.best.point[rows.device]


def apgd_search(space: Space, spec: APGD) -> GradientSearch:
    """Return the search on an untargeted objective."""
    value = untargeted(spec.objective, num_classes=space.num_classes)

    def loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return value(logits, labels)

    return _search(space, loss, spec, evaluations=spec.evaluations)


def targeted_search(space: Space, spec: TargetedAPGD) -> GradientSearch:
    """Return the search on the targeted DLR loss."""
    return _search(space, targeted(num_classes=space.num_classes), spec, evaluations=1)


def _search(space: Space, loss: Objective, spec: APGD | TargetedAPGD, *, evaluations: int) -> GradientSearch:
    """Return APGD for the threat's norm: a paper of its own gives another algorithm for l1."""
    if space.threat.norm == "l1":
        return SparseAPGDSearch(space, loss=loss, steps=spec.steps, widened=spec.widened, evaluations=evaluations)
    return APGDSearch(space, loss=loss, steps=spec.steps, evaluations=evaluations)
