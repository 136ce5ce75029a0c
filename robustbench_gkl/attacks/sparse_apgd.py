"""Auto-PGD for l1 (Croce and Hein, arXiv 2103.01208): sparse steps, first in wider balls."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.objectives import Objective
from robustbench_gkl.attacks.search.gradient import BestPoints, GradientSearch
from robustbench_gkl.attacks.search.slots import Answer, Rows, Space, Starts, column
from robustbench_gkl.core.device import sent

STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))
"""The schedule: multiples of eps, and the share of the steps spent at each."""
SPARSITY_STEP = 1.5
MAX_SHRINK = 10.0


def stage_lengths(steps: int) -> list[tuple[int, int]]:
    """Return the multiples of eps and the number of steps at each; together they are ``steps``."""
    lengths: list[int] = []
    for _, share in STAGES[:-1]:
        lengths.append(min(math.ceil(share * steps), steps - sum(lengths)))
    return [(times, length) for (times, _), length in zip(STAGES, [*lengths, steps - sum(lengths)], strict=True)]


def count_moved(points: Tensor, origin: Tensor) -> Tensor:
    """Return (B,): how many pixels of ``points`` (B, ...) differ from ``origin`` (B, ...)."""
    return (points != origin).flatten(1).sum(1).float()


def sparse_sign(slope: Tensor, density: Tensor) -> Tensor:
    """Return the signs of the steepest pixels of ``slope``, over their number, (B, ...); zero elsewhere.

    Args:
        slope: the gradient, (B, ...).
        density: (B,), the share of pixels to keep; at least one is kept.
    """
    size = slope.abs().flatten(1)
    n = size.shape[1]
    skipped = ((1 - density) * n).clamp(0, n - 1).long()
    sign = slope.flatten(1).sign() * (size >= _ranked(size, skipped)[:, None])
    return (sign / sign.abs().sum(1, keepdim=True).add_(1e-10)).reshape(slope.shape)


def _ranked(values: Tensor, rank: Tensor) -> Tensor:
    """Return the entry of each row of ``values`` (B, D) that has as many entries before it in order as ``rank`` (B,).

    ``rank`` is int64, from 0 to D - 1; returns (B,).
    """
    if values.device.type != "cpu":
        return values.sort(dim=1).values.gather(1, rank[:, None]).squeeze(1)
    pairs = zip(values.numpy(), rank.tolist(), strict=True)
    return torch.from_numpy(np.array([np.partition(row, at)[at] for row, at in pairs]))  # no row is sorted whole


class SparseAPGDSearch(GradientSearch):
    """APGD for l1 (section 4 of the paper).

    A step moves the steepest pixels by equal amounts; their share, the density, follows the number of pixels moved in
    the best point. A stage is a search in a ball of some multiple of the radius, from the best point of the one before.

    Args:
        space: the slots.
        loss: what is maximised.
        steps: gradient steps of all stages together.
        widened: go through balls of three and two times the radius first; only the last stage's points may succeed.
        evaluations: gradients averaged per step.
    """

    def __init__(self, space: Space, *, loss: Objective, steps: int, widened: bool, evaluations: int = 1) -> None:
        self.stages = stage_lengths(steps) if widened else [(1, steps)]
        # A stage of m steps asks m + 1 times: at its start and after each step.
        self.ends = np.cumsum([length + 1 for _, length in self.stages])
        super().__init__(space, steps=int(self.ends[-1]))
        self.loss, self.evaluations = loss, evaluations
        self.every = np.array([max(int(0.04 * length), 1) for _, length in self.stages])
        self.balls = [space.threat.with_eps(space.threat.eps * times) for times, _ in self.stages]
        self.origin, self.best = self.image(), BestPoints(self)
        self.step_size, self.density, self.moved = self.scalar(), self.scalar(), self.scalar()
        self.stage = self.on_host(0)

    def objective(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Return the loss that is maximised, (B,)."""
        return self.loss(logits, labels, targets)

    def start(self, rows: Rows, starts: Starts) -> Tensor:
        """Start at the projection of a normal perturbation onto the first ball, (B, C, H, W)."""
        self.origin[rows.device] = starts.images
        self.best.point[rows.device] = starts.images + starts.noise.normal(*self.space.shape)
        self.stage[rows.host] = 0
        self._begin_stage(np.arange(self.space.slots)[rows.host])
        if len(self.stages) == 1:
            self.density[rows.device] = 0.2
            self.moved[rows.device] = float(math.prod(self.space.shape))
        return self.point[rows.device]

    def _begin_stage(self, slots: np.ndarray) -> None:
        """Start ``slots`` (n,) from the best points of the stage before, projected onto the new ball."""
        for stage in np.unique(self.stage[slots]):
            chosen, ball = slots[self.stage[slots] == stage], self.balls[stage]
            self.step[chosen] = 0 if stage == 0 else self.ends[stage - 1]
            for block in self.blocks(len(chosen)):
                at = sent(torch.from_numpy(chosen[block]), self.space.device)
                origin = self.origin[at]
                start = ball.project(self.best.point[at], origin)
                self.point[at] = start
                self._set_density(at, count_moved(start, origin))
                self.step_size[at] = ball.radius
                self.best.forget(at)

    def _set_density(self, at: Tensor, moved: Tensor) -> None:
        """Set the density in the slots ``at`` (n,) by the number of pixels ``moved`` (n,) in the best points."""
        self.moved[at] = moved
        self.density[at] = moved / math.prod(self.space.shape) / SPARSITY_STEP

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Take a step, with a gradient from each point; at the end of a stage go on to the next."""
        assert answer.gradient is not None
        assert answer.value is not None
        count = len(answer.wrong)
        self.ascend(self.step[:count], answer.value, answer.gradient)
        self.step[:count] += 1
        over = (self.step[:count] == self.ends[self.stage[:count]]).nonzero()[0]
        self.finished[over] = self.stage[over] == len(self.stages) - 1
        onward = over[~self.finished[over]]
        if len(onward):
            self.stage[onward] += 1
            self._begin_stage(onward)

    def ascend(self, step: np.ndarray, value: Tensor, gradient: Tensor) -> None:
        """Keep the best points, adapt density and step size every 4 % of a stage's steps, and step.

        Given the number of steps taken (B,), the objective (B,) and its gradient (B, C, H, W).
        """
        self.best.update(self.point, value, gradient)
        stage = self.stage[: len(step)]
        since = step - np.concatenate([[0], self.ends[:-1]])[stage]
        due = ((since > 0) & (since % self.every[stage] == 0)).nonzero()[0]
        if len(due):
            self._adapt(due, gradient)
        self._move(stage, gradient)

    def _adapt(self, due: np.ndarray, gradient: Tensor) -> None:
        """In the slots ``due`` (n,): where the best point grew sparser, step fully from it again, else step less."""
        slots, device = sent(torch.from_numpy(due), gradient.device), gradient.device
        full = sent(torch.tensor([self.balls[stage].radius for stage in self.stage[due]]), device)
        moved = count_moved(self.best.point[slots], self.origin[slots])
        sparser = moved / self.moved[slots] < 0.95
        self._set_density(slots, moved)
        shrunk = (self.step_size[slots] / SPARSITY_STEP).clamp(full / MAX_SHRINK, full)
        self.step_size[slots] = torch.where(sparser, full, shrunk)
        self.best.restore(slots, sparser, self.point, gradient)

    def _move(self, stage: np.ndarray, gradient: Tensor) -> None:
        """Step in place along the steepest pixels of ``gradient`` (B, C, H, W); project onto each ``stage``'s ball."""
        for block in self.blocks(len(stage)):
            direction = sparse_sign(gradient[block], self.density[block])
            self.point[block].addcmul_(direction, column(self.step_size[block]))
            for number in np.unique(stage[block]):
                chosen = stage[block] == number
                slots = torch.from_numpy(chosen.nonzero()[0] + block.start)
                at = block if chosen.all() else sent(slots, gradient.device)
                self.point[at] = self.balls[number].project(self.point[at], self.origin[at])

    def leftover(self, rows: Rows) -> Tensor:
        """Return the points of the greatest objective, (B, C, H, W)."""
        return self.best.point[rows.device]

    def counts(self, rows: Rows, answer: Answer) -> np.ndarray:
        """Return (B,) bool: the successes of the last stage, in the ball of radius eps."""
        counted: np.ndarray = answer.wrong & (self.stage[rows.host] == len(self.stages) - 1)
        return counted
