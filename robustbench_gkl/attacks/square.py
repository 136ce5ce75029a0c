"""Square Attack (Andriushchenko et al., arXiv 1912.00049), a random search; its l1 form is from arXiv 2103.01208."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from robustbench_gkl.attacks.base import ATTACKS, Attack
from robustbench_gkl.attacks.native import SearchAttack
from robustbench_gkl.attacks.objectives import margin
from robustbench_gkl.attacks.search import Answer, Batch, Rows, Search, Space, column
from robustbench_gkl.noise import sequence
from robustbench_gkl.threat import ThreatModel

P_INIT = 0.8
"""Share of the image's pixels in the first windows."""
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12


def share(step: int) -> float:
    """Return the share of pixels in the window of ``step`` (from 0), by the published schedule for 10,000 steps."""
    return P_INIT / 2.0 ** sum(step > after for after in _HALVED_AFTER)


@dataclass(frozen=True)
class _Window:
    """Windows written for some slots, to be kept or undone: flat places (n, C, m) in a buffer, old and new values."""

    slots: Tensor
    places: Tensor
    old: Tensor
    new: Tensor


class SquareSearch(Search):
    """Square Attack for linf: a window of the image is moved to the border of the ball, and kept if that helps.

    The best image so far is kept in place; only the window is written, and written back where it did not help.
    """

    def __init__(self, space: Space, *, queries: int) -> None:
        super().__init__(space, length=queries)
        self.queries = queries
        self.point = self.image("point")
        self.best_value = self.scalar("best_value")
        self.keys = self.scalar("keys", dtype=torch.int64)
        self.wants_gradient[:] = False
        _, height, width = space.shape
        self.sides = np.array([self.side(share(step), height, width) for step in range(queries)])
        self._pending: list[_Window] = []
        self._count = 0
        self.allocate()

    def allocate(self) -> None:
        """Allocate the lower and upper borders of the ball within [0, 1]."""
        self.borders = self.buffer("borders", 2, *self.space.shape)

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
        self.keys[rows.device] = batch.noise.keys()
        self.best_value[rows.device] = -torch.inf
        self.step[rows.host] = 0
        self.start(rows, batch)

    def start(self, rows: Rows, batch: Batch) -> None:
        """Set the first query."""
        eps, (channels, _, width) = self.threat.radius, self.space.shape
        stripes = batch.noise.at("start").signs(channels, 1, width)
        self.borders[rows.device] = torch.stack([batch.images - eps, batch.images + eps], 1).clamp_(0, 1)
        self.point[rows.device] = (batch.images + eps * stripes).clamp_(0, 1)

    def prepare(self, rows: Rows) -> None:
        """Write a window into each image; windows of one size at a time."""
        step = self.step[rows.host]
        self._count = len(step)
        sides = np.where(step > 0, self.sides[step - 1], 0)
        self._pending = []
        for side in np.unique(sides[sides > 0]):
            slots = torch.from_numpy((sides == side).nonzero()[0]).to(self.space.device)
            first = torch.from_numpy((step[sides == side] - 1) * self.draws).to(self.space.device)
            bits = sequence(self.keys[slots], count=self.draws, first=first)
            self.propose(int(side), slots, bits)

    @property
    def draws(self) -> int:
        """Random numbers a step: the window's place, and a sign per channel."""
        return 2 + self.space.shape[0]

    def propose(self, side: int, slots: Tensor, bits: Tensor) -> None:
        """Move the window by 2 eps up or down in each channel, which from anywhere in the ball ends on its border."""
        places = self.places(side, slots, bits[:, 0], bits[:, 1])
        pixels = math.prod(self.space.shape)
        border = slots[:, None] * pixels + torch.where(bits[:, 2:] < 0, 0, pixels)
        old = self.point.view(-1).take(places)
        new = self.borders.view(-1).take(places + border[:, :, None])
        self.point.view(-1).put_(places, new)
        self._pending.append(_Window(slots, places, old, new))

    def places(self, side: int, slots: Tensor, row_bits: Tensor, column_bits: Tensor) -> Tensor:
        """Return (n, C, side * side): flat places of a window at random in each of ``slots``."""
        channels, height, width = self.space.shape
        top, left = _below(height - side + 1, row_bits), _below(width - side + 1, column_bits)
        corner = slots * (channels * height * width) + top * width + left
        return corner[:, None, None] + _template(side, self.space.shape, self.space.device)

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

    def allocate(self) -> None:
        """Allocate the perturbation."""
        self.origin, self.delta = self.image("origin"), self.image("delta")
        self.held = self.scalar("held")

    def side(self, share: float, height: int, width: int) -> int:
        """Return an odd side of at least 3, as far as the image has room."""
        side = max(round(math.sqrt(share * height * width)), 3)
        return min(side + 1 - side % 2, height, width)

    @property
    def draws(self) -> int:
        """Random numbers a step: the places of two windows, an orientation, and a sign per channel."""
        return 5 + self.space.shape[0]

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
        self.origin[rows.device] = batch.images
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

    def propose(self, side: int, slots: Tensor, bits: Tensor) -> None:
        """Empty the second window and put its mass, and what eps leaves unused, into the first."""
        delta = self.delta.view(-1)
        into = self.places(side, slots, bits[:, 0], bits[:, 1])
        emptied = self.places(side, slots, bits[:, 2], bits[:, 3])
        before = delta[into]
        removed = delta[emptied]
        delta[emptied] = 0.0
        remaining = delta[into]
        new = self._fill(side, slots, bits, before, self._mass(remaining) + self._mass(removed))
        delta[into] = new
        self._pending += [
            _Window(slots, into, remaining, new),
            _Window(slots, emptied, removed, removed),
        ]
        change = self._measure(new) - self._measure(remaining)
        measure = self.held[slots] + change.sum((1, 2)) - self._measure(removed).sum((1, 2))
        whole = len(slots) == self._count
        for block in self.blocks(len(slots)):
            at = block if whole else slots[block]
            self.point[at] = self._inside(self.origin[at], self.delta[at], measure[block])

    def _mass(self, values: Tensor) -> Tensor:
        """Return (n, C, 1): the measure of a window per channel."""
        return self._measure(values).sum(2, keepdim=True)

    def _fill(self, side: int, slots: Tensor, bits: Tensor, before: Tensor, mass: Tensor) -> Tensor:
        """Return the first window's new content, (n, C, side * side)."""
        channels, eps = self.space.shape[0], self.threat.radius
        shapes = _pyramids(side, self.threat.norm, self.space.device).flatten(1)
        pyramid = shapes[_below(2, bits[:, 4])][:, None] * _sign(bits[:, 5:])[:, :, None]
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
    return torch.where(bits < 0, -1.0, 1.0)


def _below(high: int, bits: Tensor) -> Tensor:
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


@ATTACKS.register("square")
@dataclass(frozen=True)
class Square(SearchAttack):
    """Square Attack, a random search without gradients (arXiv 1912.00049).

    Args:
        queries: number of steps after the first image.
        restarts: number of starts.
    """

    name: ClassVar[str] = "square"

    queries: Annotated[int, Field(ge=1)] = 5000
    restarts: Annotated[int, Field(ge=1)] = 1

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the first window's share too."""
        return super().settings(threat, num_classes=num_classes) | {"p_init": P_INIT}

    def reference(self, threat: ThreatModel) -> Attack:
        """Return pyautoattack's."""
        from robustbench_gkl.attacks.external import pyautoattack_member

        return pyautoattack_member(self)

    def runs(self, threat: ThreatModel, *, num_classes: int) -> int:
        """Return the restarts."""
        return self.restarts

    def search(self, space: Space) -> SquareSearch:
        """Return the search for the threat's norm."""
        kind = SquareSearch if space.threat.norm == "linf" else SmoothSquareSearch
        return kind(space, queries=self.queries)
