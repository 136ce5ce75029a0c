"""Square Attack (Andriushchenko et al., arXiv 1912.00049), a random search; its l1 form is from arXiv 2103.01208."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.objectives import margin
from robustbench_gkl.attacks.search.slots import Answer, Batch, Rows, Search, Space, column
from robustbench_gkl.attacks.specs.square import P_INIT, Square
from robustbench_gkl.core.noise import sequence

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_AHEAD = 50
"""Steps whose random numbers are drawn at a time: a few numbers a step would cost more in calls than in arithmetic."""
_TINY = 1e-12


def share(step: int) -> float:
    """Return the share of pixels in the window of ``step`` (from 0), by the published schedule for 10,000 steps."""
    return P_INIT / 2.0 ** sum(step > after for after in _HALVED_AFTER)


@dataclass(frozen=True)
class _Window:
    """Windows written for some slots, to be kept or undone: flat places (n, C, m) in a buffer, old and new values."""

    slots: slice | Tensor
    places: Tensor
    old: Tensor
    new: Tensor


class SquareSearch(Search):
    """Square Attack for linf: a window of the image is moved to the border of the ball, and kept if that helps.

    The best image so far is kept in place; only the window is written, and written back where it did not help.
    """

    windows: ClassVar[int] = 1
    """Windows a step, each of which has two random numbers and becomes one place."""

    def __init__(self, space: Space, *, queries: int) -> None:
        super().__init__(space, length=queries)
        self.queries = queries
        self.point = self.image("point")
        self.best_value = self.scalar("best_value")
        self.keys = self.scalar("keys", dtype=torch.int64)
        self.moves = self.buffer("moves", _AHEAD, self.draws - self.windows, dtype=torch.int64)
        self.drawn = np.full(space.slots, -1)
        self.wants_gradient[:] = False
        channels, height, width = space.shape
        self.base = torch.arange(space.slots, device=space.device)[:, None] * (channels * height * width)
        self.sides = np.array([self.side(share(step), height, width) for step in range(queries)])
        self._pending: list[_Window] = []
        self._count = 0
        self.origin = self.image("origin")

    def host(self) -> list[np.ndarray]:
        """Return which steps' moves have been drawn too."""
        return [*super().host(), self.drawn]

    def side(self, share: float, height: int, width: int) -> int:
        """Return the side of a window with the given share of the pixels."""
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    @property
    def query(self) -> Tensor:
        """The points asked about."""
        return self.point

    def objective(self, rows: Rows, logits: Tensor) -> Tensor:
        """Return the margin, max_{k != y} z_k - z_y."""
        return margin(logits, self.labels[rows.device])

    def begin(self, rows: Rows, batch: Batch) -> None:
        """Start from vertical stripes on the border of the ball."""
        self.drawn[rows.host] = -1
        self.keys[rows.device] = batch.noise.keys()
        self.best_value[rows.device] = -torch.inf
        self.step[rows.host] = 0
        self.origin[rows.device] = batch.images
        self.start(rows, batch)

    def start(self, rows: Rows, batch: Batch) -> None:
        """Set the first query."""
        channels, _, width = self.space.shape
        stripes = batch.noise.at("start").signs(channels, 1, width)
        self.point[rows.device] = (batch.images + self.threat.radius * stripes).clamp_(0, 1)

    def prepare(self, rows: Rows) -> None:
        """Write a window into each image; windows of one size at a time."""
        step = self.step[rows.host]
        self._count = len(step)
        self._pending = []
        moving = step.nonzero()[0]
        if not len(moving):
            return
        block, place = np.divmod(step[moving] - 1, _AHEAD)
        stale = block != self.drawn[moving]
        if stale.any():
            self._draw(moving[stale], block[stale])
        sides = self.sides[step[moving] - 1]
        for side in np.unique(sides) if (sides != sides[0]).any() else sides[:1]:
            chosen = sides == side
            self._propose_at(int(side), moving[chosen], place[chosen])

    def _propose_at(self, side: int, slots: np.ndarray, place: np.ndarray) -> None:
        """Propose the windows of ``slots`` that were drawn at ``place``; all slots in step need no gathering."""
        device = self.space.device
        if len(slots) == self._count and (place == place[0]).all():
            self.propose(side, slice(0, self._count), self.moves[: self._count, int(place[0])])
        else:
            at = torch.from_numpy(slots).to(device)
            self.propose(side, at, self.moves[at, torch.from_numpy(place).to(device)])

    def _draw(self, slots: np.ndarray, block: np.ndarray) -> None:
        """Draw the moves of the ``block``-th ``_AHEAD`` steps of each of ``slots``."""
        device, at = self.space.device, torch.from_numpy(slots).to(self.space.device)
        first = torch.from_numpy(block * (_AHEAD * self.draws)).to(device)
        bits = sequence(self.keys[at], count=_AHEAD * self.draws, first=first).view(-1, _AHEAD, self.draws)
        steps = np.minimum(block[:, None] * _AHEAD + np.arange(_AHEAD), self.queries - 1)
        self.moves[at] = self.moves_of(bits, torch.from_numpy(self.sides[steps]).to(device))
        self.drawn[slots] = block

    @property
    def draws(self) -> int:
        """Random numbers a step: the window's place, and a sign per channel."""
        return 2 + self.space.shape[0]

    def moves_of(self, bits: Tensor, sides: Tensor) -> Tensor:
        """Return what random ``bits`` (n, steps, draws) mean for windows of ``sides`` (n, steps).

        That is the window's corner as a flat place, and for each channel -1 or 1.
        """
        return torch.cat([self.corner(bits[:, :, 0], bits[:, :, 1], sides), _sign(bits[:, :, 2:])], 2)

    def corner(self, row_bits: Tensor, column_bits: Tensor, sides: Tensor) -> Tensor:
        """Return (n, steps, 1): the flat place in its channel of a random window's upper left corner."""
        _, height, width = self.space.shape
        return (_below(height - sides + 1, row_bits) * width + _below(width - sides + 1, column_bits))[:, :, None]

    def propose(self, side: int, slots: slice | Tensor, moves: Tensor) -> None:
        """Move the window by 2 eps up or down in each channel, which from anywhere in the ball ends on its border."""
        places = self.places(side, self.base[slots] + moves[:, :1])
        old = self.point.view(-1).take(places)
        new = self.origin.view(-1).take(places).add_(self.threat.radius * moves[:, 1:, None]).clamp_(0, 1)
        self.point.view(-1).put_(places, new)
        self._pending.append(_Window(slots, places, old, new))

    def places(self, side: int, corner: Tensor) -> Tensor:
        """Return (n, C, side * side): flat places of the windows whose first pixels are ``corner`` (n, 1)."""
        return corner[:, :, None] + _template(side, self.space.shape, self.space.device)

    def advance(self, rows: Rows, answer: Answer) -> None:
        """Keep the windows that raised the margin, undo the others."""
        assert isinstance(rows.device, slice)
        count = len(answer.wrong)
        value = self.objective(rows, answer.logits)
        better = value > self.best_value[:count]
        self.settle(better)
        torch.maximum(self.best_value[:count], value, out=self.best_value[:count])
        self.finished[:count] = self.step[:count] == self.queries
        self.step[:count] += 1

    def settle(self, better: Tensor) -> None:
        """Undo what was written where ``better`` (count,) does not hold."""
        for window in self._pending:
            keep = better[window.slots][:, None, None]
            self.point.view(-1).put_(window.places, torch.where(keep, window.new, window.old))


class SmoothSquareSearch(SquareSearch):
    """Square Attack for l2 and l1: mass is moved from one window into another, shaped as a double pyramid.

    Kept per slot: the best perturbation (as clipped to [0, 1]) and its length.
    """

    windows = 2

    def __init__(self, space: Space, *, queries: int) -> None:
        super().__init__(space, queries=queries)
        self.delta, self.held = self.image("delta"), self.scalar("held")

    def side(self, share: float, height: int, width: int) -> int:
        """Return an odd side of at least 3, as far as the image has room."""
        side = max(round(math.sqrt(share * height * width)), 3)
        return min(side + 1 - side % 2, height, width)

    @property
    def draws(self) -> int:
        """Random numbers a step: the places of two windows, an orientation, and a sign per channel."""
        return 5 + self.space.shape[0]

    def moves_of(self, bits: Tensor, sides: Tensor) -> Tensor:
        """Return both corners, the orientation, and for each channel -1 or 1."""
        into = self.corner(bits[:, :, 0], bits[:, :, 1], sides)
        emptied = self.corner(bits[:, :, 2], bits[:, :, 3], sides)
        return torch.cat([into, emptied, _below(2, bits[:, :, 4:5]), _sign(bits[:, :, 5:])], 2)

    def start(self, rows: Rows, batch: Batch) -> None:
        """Tile the image with about 5 by 5 double pyramids and scale them to the ball."""
        channels, height, width = self.space.shape
        side = max(1, min(height, width) // 5)
        tall, wide = height // side, width // side
        signs = batch.noise.at("start").signs(tall, wide, channels, 1, 1)
        shapes = _pyramids(side, self.threat.norm, self.space.device)
        chosen = shapes[batch.noise.at("orientation").integers(2, tall, wide)][:, :, :, None] * signs
        tiles = chosen.permute(0, 3, 1, 4, 2, 5).reshape(len(batch.images), channels, tall * side, wide * side)
        top, left = (height - tall * side) // 2, (width - wide * side) // 2
        delta = torch.zeros_like(batch.images)
        delta[:, :, top : top + tall * side, left : left + wide * side] = tiles
        self.point[rows.device] = self._inside(batch.images, delta, self._measure(delta).flatten(1).sum(1))

    def _measure(self, delta: Tensor) -> Tensor:
        """Return what is summed for the norm: squares, or absolute values."""
        return delta.square() if self.threat.norm == "l2" else delta.abs()

    def _inside(self, origin: Tensor, delta: Tensor, measure: Tensor) -> Tensor:
        """Return the image with ``delta`` scaled to the ball's border (l2) or projected (l1), in [0, 1]."""
        if self.threat.norm == "l2":
            scale = self.threat.radius / measure.clamp_min(0).sqrt().add_(_TINY)
            return torch.addcmul(origin, delta, column(scale)).clamp_(0, 1)
        return self.threat.project(origin + delta, origin)

    def propose(self, side: int, slots: slice | Tensor, moves: Tensor) -> None:
        """Empty the second window and put its mass, and what eps leaves unused, into the first."""
        delta = self.delta.view(-1)
        into, emptied = (self.places(side, self.base[slots] + moves[:, number, None]) for number in (0, 1))
        before = delta[into]
        removed = delta[emptied]
        delta[emptied] = 0.0
        remaining = delta[into]
        new = self._fill(side, slots, moves, before, self._mass(remaining) + self._mass(removed))
        delta[into] = new
        self._pending += [
            _Window(slots, into, remaining, new),
            _Window(slots, emptied, removed, removed),
        ]
        change = self._measure(new) - self._measure(remaining)
        measure = self.held[slots] + change.sum((1, 2)) - self._measure(removed).sum((1, 2))
        for block in self.blocks(len(moves)):
            at = block if isinstance(slots, slice) else slots[block]
            self.point[at] = self._inside(self.origin[at], self.delta[at], measure[block])

    def _mass(self, values: Tensor) -> Tensor:
        """Return (n, C, 1): the measure of a window per channel."""
        return self._measure(values).sum(2, keepdim=True)

    def _fill(self, side: int, slots: slice | Tensor, moves: Tensor, before: Tensor, mass: Tensor) -> Tensor:
        """Return the first window's new content, (n, C, side * side)."""
        channels, eps = self.space.shape[0], self.threat.radius
        shapes = _pyramids(side, self.threat.norm, self.space.device).flatten(1)
        pyramid = shapes[moves[:, 2]][:, None] * moves[:, 3:, None]
        held = self.held[slots][:, None, None]
        if self.threat.norm == "l2":
            mixed = pyramid + before / self._mass(before).sqrt().add_(_TINY)
            unused = (eps**2 - held).clamp_min_(0) / channels
            return mixed / self._mass(mixed).sqrt().add_(_TINY) * (unused + mass).sqrt_()
        mixed = pyramid + before / self._mass(before).add_(_TINY)
        unused = (eps - held).clamp_min_(0) / channels
        return mixed / self._mass(mixed).add_(_TINY) * (unused + mass) * channels

    def settle(self, better: Tensor) -> None:
        """Restore the perturbation, and replace it where the new one is better."""
        for window in self._pending:
            self.delta.view(-1)[window.places] = window.old
        rows = better.nonzero().squeeze(1)
        self.delta[rows] = self.point[rows] - self.origin[rows]
        self.held[rows] = self._measure(self.delta[rows]).flatten(1).sum(1)


def _sign(bits: Tensor) -> Tensor:
    """Return -1 or 1 from the highest bit."""
    return torch.where(bits < 0, -1, 1)


def _below(high: int | Tensor, bits: Tensor) -> Tensor:
    """Return integers on {0, ..., high - 1} from the upper 31 bits."""
    return (((bits >> 33) & 0x7FFFFFFF) * high) >> 31


@cache
def _template(side: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return (C, side * side): the places of a window in the upper left corner of a flat image."""
    channels, height, width = shape
    steps = torch.arange(side, device=device)
    plane = (steps[:, None] * width + steps).reshape(1, -1)
    return torch.arange(channels, device=device)[:, None] * (height * width) + plane


@cache
def _pyramids(side: int, norm: str, device: torch.device) -> Tensor:
    """Return (2, side, side): a pyramid above its negative, of norm 1, and its transpose (section 3.2 of the paper)."""
    power, order = (2, 2) if norm == "l2" else (4, 1)
    upper = _pyramid(side // 2, side, power)
    lower = _pyramid(side - side // 2, side, power)
    parts = [part / torch.linalg.vector_norm(part, ord=order).clamp_min(_TINY) for part in (upper, -lower)]
    both = torch.cat(parts)
    both = both / torch.linalg.vector_norm(both, ord=order)
    return torch.stack([both, both.T]).to(device)


def _pyramid(height: int, width: int, power: int) -> Tensor:
    """Return (height, width): the sum of nested rectangles, the k-th from the middle weighing 1 / k^power."""
    layers = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for k in range(max(height, width) // 2 + 1):
        rows = slice(max(top - k, 0), max(top + k + 1, 0))
        layers[rows, max(left - k, 0) : left + k + 1] += 1 / (k + 1) ** power
    return layers


def square_search(space: Space, spec: Square) -> SquareSearch:
    """Return the search for the threat's norm."""
    kind = SquareSearch if space.threat.norm == "linf" else SmoothSquareSearch
    return kind(space, queries=spec.queries)
