"""Searches that take a step from a gradient, test where it leads, and draw back what is misclassified."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.search.base import Search
from robustbench_gkl.attacks.search.slots import Answer, Rows, Space, Starts, as_rows, column, put_rows, take_rows
from robustbench_gkl.core.device import sent


class StepAndTestSearch(Search):
    """Alternates between a gradient at the current point and a *test*: whether the step from it was a success.

    If it was, the point is drawn back towards the original and the next gradient is taken there. If not, the
    next gradient is due at the very same point. To compute it together with the test would save a forward pass then,
    but waste a backward pass otherwise, which costs more: most tests succeed.

    Args:
        space: the slots.
        steps: number of steps.
        draw_back: the share of its distance that a misclassified point keeps.

    Attributes:
        origin, point: (slots, C, H, W), the originals and the current points.
        distance: (slots,), of the points from the originals, in the threat's norm.
        testing: (slots,) bool on the host: the next answer is a test.
    """

    splits = True

    def __init__(self, space: Space, *, steps: int, draw_back: float) -> None:
        super().__init__(space, length=steps)
        self.draw_back = draw_back
        self.origin, self.point, self.distance = self.image(), self.image(), self.scalar()
        self.testing = self.on_host(False)

    @property
    def query(self) -> Tensor:
        """The current points, (slots, C, H, W)."""
        return self.point

    @abstractmethod
    def start(self, starts: Starts) -> Tensor:
        """Return the first points, (B, C, H, W)."""

    @abstractmethod
    def stepped(self, point: Tensor, origin: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points that a step leads to, (B, D), and their distances from the originals, (B,).

        Args:
            point: (B, D), the current points; overwritten.
            origin: (B, D), the originals.
            value: (B,), the objective at the points.
            gradient: (B, D), its gradient.
        """

    @abstractmethod
    def step_compiled(
        self, kernels: ModuleType, slots: np.ndarray, value: Tensor, gradient: Tensor, places: np.ndarray
    ) -> None:
        """Take the same steps in the memory of ``slots``.

        Args:
            kernels: :mod:`robustbench_gkl.attacks.search.kernels`.
            slots: (B,) int64.
            value: (n,), the objective at the points of these slots and others.
            gradient: (n, C, H, W), its gradient.
            places: (B,) int64, where in both each slot's are.
        """

    def begin(self, rows: Rows, starts: Starts) -> None:
        """Set the first points; a gradient is needed at each."""
        start = self.start(starts)
        self.origin[rows.device] = starts.images
        self.point[rows.device] = start
        self.distance[rows.device] = self.threat.length(start - starts.images)
        self.step[rows.host] = 0
        self.testing[rows.host] = False
        self.wants_gradient[rows.host] = True

    def leftover(self, rows: Rows) -> Tensor:
        """Return the originals, (B, C, H, W): the search leaves the ball."""
        return self.origin[rows.device]

    def lengths(self, rows: Rows) -> Tensor:
        """Return the distances of the query points, (B,)."""
        return self.distance[rows.device]

    def counts(self, rows: Rows, answer: Answer) -> np.ndarray:
        """Return (B,) bool: those inside the ball; a shortest perturbation beyond eps is no success."""
        assert answer.lengths is not None
        counted: np.ndarray = answer.wrong & (answer.lengths <= np.float32(self.threat.radius))
        return counted

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Draw back where a test succeeded, then step wherever a gradient is known at the current point."""
        tested = self.testing[rows.host]
        failed = tested & ~answer.wrong
        self._draw_back(rows, tested & answer.wrong)
        ready = np.zeros_like(tested) if answer.gradient is None else ~tested | failed
        self.finished[rows.host] = tested & (self.step[rows.host] == self.length)
        if answer.gradient is not None and answer.value is not None:
            self._take_steps(rows, ready, answer.value, answer.gradient)
        self.step[rows.host] += ready
        self.testing[rows.host] = ready
        self.wants_gradient[rows.host] = ~ready

    def _take_steps(self, rows: Rows, ready: np.ndarray, value: Tensor, gradient: Tensor) -> None:
        """Step where ``ready`` (B,) bool of ``rows``, given values (B,) and gradients (B, C, H, W)."""
        if self.space.kernels is not None:
            self.step_compiled(self.space.kernels, rows.where(ready), value, gradient, ready.nonzero()[0])
            return
        for at, local in self._blocks_where(rows, ready):
            point, origin = (take_rows(images, at).flatten(1) for images in (self.point, self.origin))
            ahead, distance = self.stepped(point, origin, value[local], gradient[local].flatten(1))
            put_rows(self.point, at, ahead.view(-1, *self.space.shape))
            self.distance[at] = distance

    def _draw_back(self, rows: Rows, found: np.ndarray) -> None:
        """Bring the ``found`` (B,) bool of ``rows`` back towards their originals."""
        if self.space.kernels is not None:
            images = as_rows(self.point), as_rows(self.origin)
            self.space.kernels.draw_back(*images, self.distance.numpy(), rows.where(found), self.draw_back)
            return
        if isinstance(rows.host, slice) and found.any():
            # Those that stay have weight 1, which costs less than to pick out the others.
            weight = sent(torch.from_numpy(np.where(found, self.draw_back, 1.0)).float(), self.space.device)
            for block in self.blocks(len(found)):
                torch.lerp(self.origin[block], self.point[block], column(weight[block]), out=self.point[block])
            self.distance[rows.device] *= weight
            return
        for at, _ in self._blocks_where(rows, found):
            put_rows(self.point, at, take_rows(self.origin, at).lerp(take_rows(self.point, at), self.draw_back))
            self.distance[at] *= self.draw_back

    def _blocks_where(self, rows: Rows, chosen: np.ndarray) -> Iterator[tuple[slice | Tensor, slice | Tensor]]:
        """Yield the ``chosen`` (B,) bool of ``rows`` piece by piece: their slots, and their places in the answer."""
        if isinstance(rows.host, slice) and chosen.all():
            for block in self.blocks(len(chosen)):
                yield block, block
            return
        places, slots, device = chosen.nonzero()[0], rows.where(chosen), self.space.device
        for block in self.blocks(len(places)):
            yield sent(torch.from_numpy(slots[block]), device), sent(torch.from_numpy(places[block]), device)
