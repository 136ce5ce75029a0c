"""Searches that take a gradient step after each answer of the model."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.search.base import Search
from robustbench_gkl.attacks.search.slots import Answer, Rows, Space, Starts, copy_chosen


class GradientSearch(Search):
    """A number of gradient steps from a start; the last point is evaluated without a gradient.

    Attributes:
        point: (slots, C, H, W), the current points.
    """

    def __init__(self, space: Space, *, steps: int) -> None:
        super().__init__(space, length=steps)
        self.point = self.image()

    @property
    def query(self) -> Tensor:
        """The current points, (slots, C, H, W)."""
        return self.point

    @abstractmethod
    def start(self, rows: Rows, starts: Starts) -> Tensor:
        """Return the first points of ``starts``, (B, C, H, W), and set the other state of their slots ``rows``."""

    @abstractmethod
    def ascend(self, step: np.ndarray, value: Tensor, gradient: Tensor) -> None:
        """Step from the points of the first B slots.

        Args:
            step: (B,) int64, the number of steps taken before.
            value: (B,), the objective at the points.
            gradient: (B, C, H, W), its gradient; may be overwritten.
        """

    def begin(self, rows: Rows, starts: Starts) -> None:
        """Set the first points."""
        self.point[rows.device] = self.start(rows, starts)
        self.step[rows.host] = 0
        self.wants_gradient[rows.host] = True

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Take a step, or finish the run after the last one."""
        assert isinstance(rows.device, slice)
        step = self.step[: len(answer.wrong)]
        self.finished[: len(step)] = step == self.length
        if answer.gradient is not None and answer.value is not None:
            self.ascend(step, answer.value, answer.gradient)
        step += 1
        self.wants_gradient[: len(step)] = step < self.length


class BestPoints:
    """The point of the greatest objective in each slot of a search, and its gradient.

    Attributes:
        point, gradient: (slots, C, H, W).
        value: (slots,), the objective.
    """

    def __init__(self, search: Search) -> None:
        self.point, self.gradient, self.value = search.image(), search.image(), search.scalar()

    def forget(self, at: slice | Tensor) -> None:
        """Begin anew in the slots ``at``, a slice or (n,) int64: any value is better."""
        self.value[at] = -torch.inf

    def update(self, points: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Keep those of the first B slots' points whose value (B,) is better, with their gradients (B, C, H, W).

        Args:
            points: (slots, C, H, W).
            value: (B,), the objective at the points.
            gradient: (B, C, H, W).
        """
        best = self.value[: len(value)]
        better = value > best
        copy_chosen(self.point, points, better)
        copy_chosen(self.gradient, gradient, better)
        torch.maximum(best, value, out=best)

    def restore(self, slots: Tensor, chosen: Tensor, points: Tensor, gradient: Tensor) -> None:
        """Set the points and gradients, (slots, C, H, W) each, of the ``chosen`` (n,) of ``slots`` to the best ones."""
        copy_chosen(points, self.point, chosen, slots)
        copy_chosen(gradient, self.gradient, chosen, slots)
