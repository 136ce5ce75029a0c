"""Auto-PGD (Croce and Hein, arXiv 2003.01690) and its sparse variant for l1 (arXiv 2103.01208)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.objectives import targeted, untargeted
from robustbench_gkl.attacks.search.slots import Answer, Batch, Rows, Search, Space, column, copy_rows
from robustbench_gkl.attacks.specs.apgd import APGD, RHO, TargetedAPGD
from robustbench_gkl.core.threat import ThreatModel

MOMENTUM = 0.75
STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))
"""The l1 schedule: multiples of eps, and the share of the steps spent at each."""
SPARSITY_STEP = 1.5
MAX_SHRINK = 10.0

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (B, K), labels (B,) and targets (B,) to what is maximised, (B,)."""


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


class APGDSearch(Search):
    """APGD for linf and l2.

    Per slot: the current and the previous point, the best one with its gradient, and what decides about the step
    size. A query's answer is judged, at checkpoints the step size is halved and the search sent back to the
    best point, and then a step is taken.
    """

    def __init__(self, space: Space, *, loss: Loss, steps: int, evaluations: int = 1) -> None:
        super().__init__(space, length=steps)
        self.loss, self.steps, self.evaluations = loss, steps, evaluations
        self.targets = self.scalar("targets", dtype=torch.int64)
        self.point, self.best, self.best_slope = (self.image(name) for name in ("point", "best", "best_slope"))
        self.step_size, self.best_value = self.scalar("step_size"), self.scalar("best_value")
        self.allocate()

    def allocate(self) -> None:
        """Allocate what only this geometry needs."""
        self._windows = np.zeros(self.steps + 1, dtype=np.int64)
        for at, window in checkpoints(self.steps).items():
            self._windows[at] = window
        self.previous = self.image("previous")
        self.last_value, self.rises = self.scalar("last_value"), self.scalar("rises")
        self.checked_value = self.scalar("checked_value")
        self.halved = self.scalar("halved", dtype=torch.bool)
        if self.threat.norm == "linf":
            self.low, self.high = self.image("low"), self.image("high")
        else:
            self.origin = self.image("origin")

    @property
    def query(self) -> Tensor:
        """The current points."""
        return self.point

    def leftover(self, rows: Rows) -> Tensor:
        """Return the points of the greatest objective."""
        return self.best[rows.device]

    def objective(self, rows: Rows, logits: Tensor) -> Tensor:
        """Return the loss that is maximised."""
        return self.loss(logits, self.labels[rows.device], self.targets[rows.device])

    def begin(self, rows: Rows, batch: Batch) -> None:
        """Start on the sphere of radius eps at random, clamped to [0, 1]."""
        at, eps, shape = rows.device, self.threat.radius, batch.images.shape[1:]
        if batch.target is not None:
            self.targets[at] = batch.target
        if self.threat.norm == "linf":
            direction = 2 * batch.noise.uniform(*shape) - 1
            self.low[at] = (batch.images - eps).clamp_(0, 1)
            self.high[at] = (batch.images + eps).clamp_(0, 1)
        else:
            direction = batch.noise.normal(*shape)
            self.origin[at] = batch.images
        length = self.threat.length(direction)
        start = (batch.images + direction * column(eps / length.clamp_min(1e-12))).clamp_(0, 1)
        self.point[at] = start
        self.previous[at] = start
        self.step_size[at] = 2 * eps
        self.best_value[at] = -torch.inf
        self.last_value[at] = torch.inf  # the first answer is no rise
        self.rises[at] = 0
        self.halved[at] = True  # the first checkpoint has none before it that it could fail to improve on
        self.step[rows.host] = 0
        self.wants_gradient[rows.host] = True

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Judge the current points, and step from them or from the best ones."""
        assert isinstance(rows.device, slice)
        count = len(answer.wrong)
        step = self.step[:count]
        self.finished[:count] = step == self.steps
        if answer.gradient is not None and answer.value is not None:
            if self.threat.norm == "linf":
                answer.gradient.sign_()
            self._keep_best(answer.value, answer.gradient)
            self._check(step, answer.value, answer.gradient)
            self._move(step, answer.gradient)
        step += 1
        self.wants_gradient[:count] = step < self.steps

    def _keep_best(self, value: Tensor, slope: Tensor) -> None:
        count = len(value)
        better = (value > self.best_value[:count]).nonzero().squeeze(1)
        copy_rows(self.best, self.point, better)
        copy_rows(self.best_slope, slope, better)
        torch.maximum(self.best_value[:count], value, out=self.best_value[:count])

    def _check(self, step: np.ndarray, value: Tensor, slope: Tensor) -> None:
        """At checkpoints halve the step size where the objective rose too seldom or not beyond the best one."""
        count = len(value)
        self.rises[:count] += value > self.last_value[:count]
        self.last_value[:count] = value
        window = self._windows[step]
        if not window.any():
            return
        rows = torch.from_numpy(window.nonzero()[0]).to(value.device)
        limit = torch.from_numpy(RHO * window[window > 0]).to(value.device)
        seldom = self.rises[rows] <= limit
        stuck = ~self.halved[rows] & (self.checked_value[rows] >= self.best_value[rows])
        halve = seldom | stuck
        self.halved[rows] = halve
        self.checked_value[rows] = self.best_value[rows]
        self.rises[rows] = 0
        back = rows[halve]
        self.step_size[back] /= 2
        copy_rows(self.point, self.best, back)
        copy_rows(slope, self.best_slope, back)

    def _move(self, step: np.ndarray, slope: Tensor) -> None:
        """Step along ``slope`` with momentum; the first step of a run has none."""
        count = len(step)
        weight = torch.from_numpy(np.where(step == 0, 1.0, MOMENTUM)).float().to(slope.device)
        move = self._move_linf if self.threat.norm == "linf" else self._move_l2
        for block in self.blocks(count):
            move(block, slope[block], column(self.step_size[block]), column(weight[block]))
        self.point, self.previous = self.previous, self.point

    def _move_linf(self, block: slice, sign: Tensor, step_size: Tensor, weight: Tensor) -> None:
        """Write the next point over the previous one.

        That is P(x + a (z - x) + (1 - a) (x - x_old)) with z = P(x + step sign), or, with u = 2 x - x_old, the same
        as P(u + a (z - u)).
        """
        point, following, low, high = self.point[block], self.previous[block], self.low[block], self.high[block]
        ahead = torch.addcmul(point, sign, step_size, out=sign)
        torch.clamp(ahead, low, high, out=ahead)
        following.lerp_(point, 2.0)
        torch.lerp(following, ahead, weight, out=following)
        torch.clamp(following, low, high, out=following)

    def _move_l2(self, block: slice, slope: Tensor, step_size: Tensor, weight: Tensor) -> None:
        """As for linf, with the gradient's direction and the l2 projection."""
        point, following, origin = self.point[block], self.previous[block], self.origin[block]
        ahead = self.threat.project(point + self.threat.steepest(slope, point, step_size), origin)
        following.lerp_(point, 2.0)
        following.copy_(self.threat.project(following.lerp_(ahead, weight), origin))


class SparseAPGDSearch(APGDSearch):
    """APGD for l1 (arXiv 2103.01208, section 4): sparse steps whose sparsity follows that of the best point.

    Args:
        widened: go through balls of three and two times the radius first; only the last 40 % of the steps may succeed.
    """

    def __init__(self, space: Space, *, loss: Loss, steps: int, widened: bool, evaluations: int = 1) -> None:
        self.stages = stage_lengths(steps) if widened else [(1, steps)]
        self.balls = {times: space.threat.with_eps(space.threat.eps * times) for times, _ in self.stages}
        super().__init__(space, loss=loss, steps=steps, evaluations=evaluations)

    def allocate(self) -> None:
        """Allocate the sparsity of the steps and the number of pixels moved at the last checkpoint."""
        self.origin = self.image("origin")
        self.density, self.moved = self.scalar("density"), self.scalar("moved")
        # A stage of m steps asks m + 1 times: at its start and after each step.
        self._ends = np.cumsum([length + 1 for _, length in self.stages])
        self.length = int(self._ends[-1])
        self.stage = np.zeros(self.space.slots, dtype=np.int64)

    def host(self) -> list[np.ndarray]:
        """Return the stages too."""
        return [*super().host(), self.stage]

    def counts(self, rows: Rows, wrong: np.ndarray) -> np.ndarray:
        """Return only successes in the ball of radius eps."""
        meant: np.ndarray = wrong & (self.stage[rows.host] == len(self.stages) - 1)
        return meant

    def begin(self, rows: Rows, batch: Batch) -> None:
        """Start at the projection of a normal perturbation."""
        at = rows.device
        if batch.target is not None:
            self.targets[at] = batch.target
        self.origin[at] = batch.images
        start = batch.images + batch.noise.normal(*batch.images.shape[1:])
        self.best[at] = start
        self.stage[rows.host] = 0
        self.wants_gradient[rows.host] = True
        slots = np.arange(self.space.slots)[rows.host]
        self._begin_stage(slots)
        if len(self.stages) == 1:
            self.density[at] = 0.2
            self.moved[at] = float(math.prod(self.space.shape))

    def _begin_stage(self, slots: np.ndarray) -> None:
        """Start from the best point of the stage before, projected onto the new ball."""
        for stage in np.unique(self.stage[slots]):
            chosen = slots[self.stage[slots] == stage]
            ball = self.balls[self.stages[stage][0]]
            self.step[chosen] = 0 if stage == 0 else self._ends[stage - 1]
            for block in self.blocks(len(chosen)):
                rows = torch.from_numpy(chosen[block]).to(self.space.device)
                origin = self.origin[rows]
                start = ball.project(self.best[rows], origin)
                self.point[rows] = start
                self.moved[rows] = count_moved(start, origin)
                self.density[rows] = self.moved[rows] / math.prod(self.space.shape) / SPARSITY_STEP
                self.step_size[rows] = ball.radius
                self.best_value[rows] = -torch.inf

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Judge the current points, adapt sparsity and step size, and step; at a stage's end go on to the next."""
        assert answer.gradient is not None
        assert answer.value is not None
        count = len(answer.wrong)
        step = self.step[:count]
        self._keep_best(answer.value, answer.gradient)
        starts = np.concatenate([[0], self._ends[:-1]])[self.stage[:count]]
        self._adapt(step - starts, answer.gradient)
        self._move(step, answer.gradient)
        step += 1
        over = (step == self._ends[self.stage[:count]]).nonzero()[0]
        self.finished[over] = self.stage[over] == len(self.stages) - 1
        onward = over[~self.finished[over]]
        if len(onward):
            self.stage[onward] += 1
            self._begin_stage(onward)

    def _adapt(self, since: np.ndarray, slope: Tensor) -> None:
        """Every 4 % of the steps: where the best point grew sparser, step fully from it again, else step less."""
        every = np.array([max(int(0.04 * length), 1) for _, length in self.stages])[self.stage[: len(since)]]
        due = ((since > 0) & (since % every == 0)).nonzero()[0]
        if not len(due):
            return
        rows = torch.from_numpy(due).to(slope.device)
        full = torch.tensor([self.balls[self.stages[stage][0]].radius for stage in self.stage[due]]).to(slope.device)
        moved = count_moved(self.best[rows], self.origin[rows])
        sparser = moved / self.moved[rows] < 0.95
        self.density[rows] = moved / math.prod(self.space.shape) / SPARSITY_STEP
        shrunk = (self.step_size[rows] / SPARSITY_STEP).clamp(full / MAX_SHRINK, full)
        self.step_size[rows] = torch.where(sparser, full, shrunk)
        self.moved[rows] = moved
        back = rows[sparser]
        copy_rows(self.point, self.best, back)
        copy_rows(slope, self.best_slope, back)

    def _move(self, step: np.ndarray, slope: Tensor) -> None:
        """Step by equal amounts along the steepest pixels, as many as the density says, and project."""
        multiples = np.array([times for times, _ in self.stages])[self.stage[: len(step)]]
        for block in self.blocks(len(step)):
            direction = sparse_sign(slope[block], self.density[block])
            self.point[block].addcmul_(direction, column(self.step_size[block]))
            for times in np.unique(multiples[block]):
                chosen = multiples[block] == times
                at = block if chosen.all() else torch.from_numpy(chosen.nonzero()[0] + block.start).to(slope.device)
                self.point[at] = self.balls[int(times)].project(self.point[at], self.origin[at])


def stage_lengths(steps: int) -> list[tuple[int, int]]:
    """Return the multiples of eps and the number of steps at each; together they are ``steps``."""
    lengths = [math.ceil(share * steps) for _, share in STAGES[:-1]]
    return [(times, length) for (times, _), length in zip(STAGES, [*lengths, steps - sum(lengths)], strict=True)]


def count_moved(points: Tensor, origin: Tensor) -> Tensor:
    """Return (B,): how many pixels differ."""
    return (points != origin).flatten(1).sum(1).float()


def sparse_sign(slope: Tensor, density: Tensor) -> Tensor:
    """Return the signs of the steepest pixels of ``slope`` (B, ...), over their number; zero elsewhere.

    Args:
        slope: the gradient.
        density: (B,), the share of pixels to keep; at least one is kept.
    """
    size = slope.abs().flatten(1)
    n = size.shape[1]
    kept = n - ((1 - density) * n).clamp(0, n - 1).long()
    most = int(kept.max()) if size.device.type == "cpu" else n  # elsewhere to look would cost more than to sort all
    largest = size.topk(most, dim=1).values.gather(1, kept[:, None] - 1)
    sign = slope.flatten(1).sign() * (size >= largest)
    return (sign / sign.abs().sum(1, keepdim=True).add_(1e-10)).reshape(slope.shape)


def make_search(space: Space, *, loss: Loss, steps: int, widened: bool, evaluations: int = 1) -> APGDSearch:
    """Return APGD for the threat's norm; ``widened`` concerns l1 only."""
    threat: ThreatModel = space.threat
    if threat.norm == "l1":
        return SparseAPGDSearch(space, loss=loss, steps=steps, widened=widened, evaluations=evaluations)
    return APGDSearch(space, loss=loss, steps=steps, evaluations=evaluations)


def apgd_search(space: Space, spec: APGD) -> APGDSearch:
    """Return the search on an untargeted objective."""
    value = untargeted(spec.objective, num_classes=space.num_classes)

    def loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return value(logits, labels)

    return make_search(space, loss=loss, steps=spec.steps, widened=spec.widened, evaluations=spec.evaluations)


def targeted_search(space: Space, spec: TargetedAPGD) -> APGDSearch:
    """Return the search on the targeted DLR loss."""
    loss = targeted(num_classes=space.num_classes)
    return make_search(space, loss=loss, steps=spec.steps, widened=spec.widened)
