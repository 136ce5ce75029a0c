"""Random searches over square windows of an image, without gradients."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.search.base import Search
from robustbench_gkl.attacks.search.lookahead import Lookahead
from robustbench_gkl.attacks.search.places import FlatWindows, HostWindows, Windows, template
from robustbench_gkl.attacks.search.slots import Answer, Rows, Space, Starts
from robustbench_gkl.core.device import sent
from robustbench_gkl.core.noise import sequence

_AHEAD = 256
"""Steps whose random numbers are drawn at a time: a few numbers a step would cost more in calls than in arithmetic."""


@dataclass(frozen=True)
class Written:
    """Windows written for some slots, to be kept or undone; ``old`` and ``new`` (n, C, m) are before and after."""

    windows: Windows
    old: Tensor
    new: Tensor


class WindowSearch(Search):
    """Writes windows at random places into the best image so far, and keeps them if the objective rises.

    The best image is kept in place; only windows are written, and written back where they did not help.

    Where slots are free, the next steps of a sample share a batch: each is tried as though those before it had not
    helped, and the first one that helped counts, with none after it. So the sample takes the same steps.

    Args:
        space: the slots.
        sides: of the windows of each step, in pixels; as many steps.

    Attributes:
        point: (slots, C, H, W), the images.
        origin: (slots, C, H, W), the originals.
        written: what the current step wrote.
    """

    corners: ClassVar[int] = 1
    """Windows a step, each of which takes two random numbers, for the row and the column of its corner."""
    extra: ClassVar[int] = 0
    """Random numbers a step beside those for the corners and for a sign per channel."""

    def __init__(self, space: Space, *, sides: list[int]) -> None:
        super().__init__(space, length=len(sides))
        self.sides = np.array(sides)
        self.point, self.origin = self.image(), self.image()
        self.best_value = self.on_host(-np.inf)
        self.written: list[Written] = []
        self.wants_gradient[:] = False
        channels, height, width = space.shape
        self._draws = 2 * self.corners + self.extra + channels
        self._keys = self.scalar(dtype=torch.int64)
        self._moves = self.tensor(_AHEAD, self._draws - self.corners, dtype=torch.int64)
        self._drawn = self.on_host(-1)
        self._slot_numbers = np.arange(space.slots)
        self._lookahead, self._copied = Lookahead(), (0, 0)
        self._first_pixel = torch.arange(space.slots, device=space.device)[:, None] * (channels * height * width)
        self._count = 0

    @property
    def varying(self) -> list[Tensor]:
        """What changes from step to step, (slots, ...) each."""
        return [self.point]

    @property
    def query(self) -> Tensor:
        """The images with the windows of the current step, (slots, C, H, W)."""
        return self.point

    @abstractmethod
    def start(self, starts: Starts) -> Tensor:
        """Return the first images, (B, C, H, W)."""

    @abstractmethod
    def propose(self, side: int, slots: slice | Tensor, moves: Tensor) -> None:
        """Write windows into the images of ``slots`` and note them in ``written``.

        Args:
            side: of the windows.
            slots: n of them.
            moves: (n, corners + extra + C) int64: the corners' flat places in a channel, ``extra`` numbers of 0 or 1,
                and for each channel -1 or 1.
        """

    def settle(self, better: np.ndarray) -> None:
        """Undo what was written where ``better`` (B,) bool does not hold."""
        kept = sent(torch.from_numpy(better), self.space.device)
        for change in self.written:
            keep = kept[change.windows.slots][:, None, None]
            change.windows.write(self.point, torch.where(keep, change.new, change.old))

    def begin(self, rows: Rows, starts: Starts) -> None:
        """Set the first images; their windows are drawn when they are due."""
        self._copied = (0, 0)
        self._drawn[rows.host] = -1
        self._keys[rows.device] = starts.noise.keys()
        self.best_value[rows.host] = -np.inf
        self.step[rows.host] = 0
        self.origin[rows.device] = starts.images
        self.point[rows.device] = self.start(starts)

    def move(self, source: int, target: int) -> None:
        """Copy one slot's state over another's."""
        super().move(source, target)
        self._copied = (0, 0)

    def rows(self, count: int) -> int:
        """Return ``count`` times the number of steps that share the next batch."""
        return count * self._lookahead.begin(min(self.space.slots // count, _AHEAD))

    def prepare(self, rows: Rows) -> None:
        """Write windows into each image but the first one of a run; windows of one size at a time."""
        self._look_ahead(len(self.step[rows.host]))
        step = self.step[rows.host]
        self._count, self.written = len(step) // self._lookahead.steps, []
        moving = step.nonzero()[0]
        if not len(moving):
            return
        first, last = step[: self._count], step[-self._count :]
        stale = (self._drawn[: self._count] < 0) | (last > self._drawn[: self._count] + _AHEAD)
        if stale.any():  # the others too if they will be soon: to draw for many costs no more calls
            stale |= last > self._drawn[: self._count] + _AHEAD // 2
            self._draw(stale.nonzero()[0], np.maximum(first[stale] - 1, 0))
        sides = self.sides[step[moving] - 1]
        for side in np.unique(sides) if (sides != sides[0]).any() else sides[:1]:
            self._propose_at(int(side), moving[sides == side], step, len(step))

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Keep the windows that raised the objective, undo the others."""
        assert isinstance(rows.device, slice)
        value, first = self._first(answer)
        count = len(first)
        best = self.best_value[:count]
        chosen, better = first * count + np.arange(count), np.zeros(len(value), dtype=bool)
        better[chosen] = value[chosen] > best
        self.settle(better)
        np.maximum(best, value[chosen], out=best)
        self.step[:count] += first
        self.finished[:count] = self.step[:count] == self.length
        self.step[:count] += 1
        if len(value) > count:
            self._copy(chosen[better[chosen]], count)
        self._lookahead.end(first.mean() + 1)

    def counts(self, rows: Rows, answer: Answer) -> np.ndarray:
        """Return (B,) bool: the misclassified query points of the steps that count."""
        _, first = self._first(answer)
        counted = np.zeros_like(answer.wrong)
        chosen = first * len(first) + np.arange(len(first))
        counted[chosen] = answer.wrong[chosen]
        return counted

    def _first(self, answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        """Return the objective (B,), and of each slot the first step in the batch that matters, (n,) int64 from 0.

        That is the first one which raises the objective or is misclassified, else the last one.
        """
        labels = torch.from_numpy(self.host_labels[: len(answer.wrong)])
        value = self.objective(answer.logits, labels, labels).numpy()
        steps = self._lookahead.steps
        count = len(value) // steps
        if steps == 1:
            return value, np.zeros(count, dtype=np.int64)
        matters = answer.wrong | (value > np.tile(self.best_value[:count], steps))
        matters = matters.reshape(steps, count)
        last = np.minimum(steps - 1, self.length - self.step[:count])
        return value, np.where(matters.any(0), np.minimum(matters.argmax(0), last), last)

    def _look_ahead(self, rows: int) -> None:
        """Let the slots beyond those in use stand for these at their next steps, ``rows`` in all."""
        steps = self._lookahead.steps
        count = rows // steps
        if steps == 1:
            self._copied = (0, 0)
            return
        if self._copied != (count, steps):
            for tensor in (self.origin, *self.varying):
                tensor[count:rows] = tensor[:count].repeat(steps - 1, *[1] * (tensor.dim() - 1))
            self.host_labels[count:rows] = np.tile(self.host_labels[:count], steps - 1)
            self._copied = (count, steps)
        ahead = np.arange(rows) // count
        self.step[:rows] = np.minimum(np.tile(self.step[:count], steps) + ahead, self.length)

    def _copy(self, slots: np.ndarray, count: int) -> None:
        """Copy what varies in ``slots`` (n,) int64, one at most of those that stand for one sample, to the others."""
        if not len(slots):
            return
        device, steps = self.space.device, self._lookahead.steps
        source = sent(torch.from_numpy(np.tile(slots, steps)), device)
        target = np.tile(slots % count, steps) + count * np.arange(steps).repeat(len(slots))
        for tensor in self.varying:
            tensor[sent(torch.from_numpy(target), device)] = tensor[source]

    def windows(self, side: int, slots: slice | Tensor, corner: Tensor) -> Windows:
        """Return the windows of ``slots`` (n) of a ``side``, with ``corner`` (n,) int64."""
        if self.point.device.type == "cpu":
            numbers = self._slot_numbers[slots] if isinstance(slots, slice) else slots.numpy()
            return HostWindows(slots, side, (numbers, slice(None), *np.divmod(corner.numpy(), self.space.shape[2])))
        first = self._first_pixel[slots] + corner[:, None]
        return FlatWindows(slots, first[:, :, None] + template(side, self.space.shape, self.space.device))

    def _propose_at(self, side: int, slots: np.ndarray, step: np.ndarray, rows: int) -> None:
        """Propose the windows of ``slots`` (n,) among ``rows``, at their ``step`` (rows,).

        All slots need no gathering; nor do their moves if they were drawn at one place.
        """
        device, owner = self.space.device, slots % self._count
        place = step[slots] - 1 - self._drawn[owner]
        at = slice(0, rows) if len(slots) == rows else sent(torch.from_numpy(slots), device)
        if len(slots) == rows == self._count and (place == place[0]).all():
            self.propose(side, at, self._moves[: self._count, int(place[0])])
        else:
            chosen = sent(torch.from_numpy(np.stack([owner, place])), device)
            self.propose(side, at, self._moves[chosen[0], chosen[1]])

    def _draw(self, slots: np.ndarray, first: np.ndarray) -> None:
        """Draw the moves of the ``_AHEAD`` steps after the ``first`` of each of ``slots``, (n,) int64 both."""
        device, at = self.space.device, sent(torch.from_numpy(slots), self.space.device)
        begin = sent(torch.from_numpy(first * self._draws), device)
        bits = sequence(self._keys[at], count=_AHEAD * self._draws, first=begin).view(-1, _AHEAD, self._draws)
        steps = np.minimum(first[:, None] + np.arange(_AHEAD), self.length - 1)
        self._moves[at] = self._moves_of(bits, sent(torch.from_numpy(self.sides[steps]), device))
        self._drawn[slots] = first

    def _moves_of(self, bits: Tensor, sides: Tensor) -> Tensor:
        """Return the moves, see :meth:`propose`, of ``bits`` (n, steps, draws) for windows of ``sides`` (n, steps)."""
        pairs, other = bits[:, :, : 2 * self.corners], bits[:, :, 2 * self.corners :]
        corners = [self._corner(pairs[:, :, k], pairs[:, :, k + 1], sides) for k in range(0, 2 * self.corners, 2)]
        return torch.cat([*corners, _below(2, other[:, :, : self.extra]), _sign(other[:, :, self.extra :])], 2)

    def _corner(self, row_bits: Tensor, column_bits: Tensor, sides: Tensor) -> Tensor:
        """Return (n, steps, 1) int64: the flat place in its channel of a window's upper left corner.

        It is drawn from ``row_bits`` and ``column_bits``, for ``sides``, (n, steps) int64 each.
        """
        _, height, width = self.space.shape
        return (_below(height - sides + 1, row_bits) * width + _below(width - sides + 1, column_bits))[:, :, None]


def _sign(bits: Tensor) -> Tensor:
    """Return -1 or 1 from the highest bit of each of ``bits`` (...)."""
    return torch.where(bits < 0, -1, 1)


def _below(high: int | Tensor, bits: Tensor) -> Tensor:
    """Return integers on {0, ..., high - 1} from the upper 31 of each of ``bits`` (...)."""
    return (((bits >> 33) & 0x7FFFFFFF) * high) >> 31
