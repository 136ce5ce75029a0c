"""Square Attack (Andriushchenko et al., arXiv 1912.00049), a random search; its l1 form is from arXiv 2103.01208."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.objectives import margin
from robustbench_gkl.attacks.search.slots import Rows, Space, Starts, column
from robustbench_gkl.attacks.search.windows import WindowSearch, Written
from robustbench_gkl.attacks.specs.square import P_INIT, Square
from robustbench_gkl.core.device import sent
from robustbench_gkl.core.exact import Norm

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12


def share(step: int) -> float:
    """Return the share of pixels in the window of ``step`` (from 0), by the published schedule for 10,000 steps."""
    return P_INIT / 2.0 ** sum(step > after for after in _HALVED_AFTER)


class SquareSearch(WindowSearch):
    """Square Attack on the margin: a window is changed at random, and kept if the margin rises."""

    def __init__(self, space: Space, *, queries: int) -> None:
        super().__init__(space, sides=[self.side(share(step), *space.shape[1:]) for step in range(queries)])

    @staticmethod
    @abstractmethod
    def side(share: float, height: int, width: int) -> int:
        """Return the side of a window with the given share of the pixels."""

    def objective(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Return the margin, max_{k != y} z_k - z_y, (B,)."""
        return margin(logits, labels)


class LinfSquareSearch(SquareSearch):
    """The form for linf: a window is moved to the border of the ball (algorithm 2 of the paper)."""

    @staticmethod
    def side(share: float, height: int, width: int) -> int:
        """Return the side of a square with the given share of the pixels."""
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    def start(self, starts: Starts) -> Tensor:
        """Start from vertical stripes on the border of the ball, (B, C, H, W)."""
        channels, _, width = self.space.shape
        stripes = starts.noise.at("start").signs(channels, 1, width)
        return (starts.images + self.threat.radius * stripes).clamp_(0, 1)

    def propose(self, side: int, slots: slice | Tensor, moves: Tensor) -> None:
        """Move the window to eps above or below the original in each channel.

        ``moves`` (n, 1 + C) are its corner and the signs.
        """
        windows = self.windows(side, slots, moves[:, 0])
        old = windows.read(self.point)
        new = windows.read(self.origin).add_(moves[:, 1:, None], alpha=self.threat.radius).clamp_(0, 1)
        windows.write(self.point, new)
        self.written.append(Written(windows, old, new))


class PyramidSquareSearch(SquareSearch):
    """The form for l2 and l1: mass is moved from one window into another, shaped as a double pyramid (algorithm 3).

    The mass of a perturbation is what is summed for its norm: squares for l2, absolute values for l1.

    Attributes:
        delta: (slots, C, H, W), the best perturbations, as clipped to [0, 1].
        mass: (slots,), of ``delta``.
    """

    order: ClassVar[float]
    """Of the norm."""
    power: ClassVar[int]
    """How fast a pyramid falls: its k-th rectangle from the middle weighs 1 / k^power."""
    corners = 2
    extra = 1  # the pyramid's orientation

    def __init__(self, space: Space, *, queries: int) -> None:
        super().__init__(space, queries=queries)
        self.delta, self.mass = self.image(), self.scalar()

    @property
    def varying(self) -> list[Tensor]:
        """The images, the perturbations and their mass."""
        return [self.point, self.delta, self.mass]

    @staticmethod
    @abstractmethod
    def measure(delta: Tensor) -> Tensor:
        """Return the mass of each entry of ``delta``, (...)."""

    @property
    @abstractmethod
    def capacity(self) -> float:
        """The mass of a perturbation of length eps."""

    @abstractmethod
    def inside(self, origin: Tensor, delta: Tensor, mass: Tensor) -> Tensor:
        """Return the images (B, C, H, W) with ``delta`` of ``mass`` (B,) brought into the ball, in [0, 1]."""

    @abstractmethod
    def filled(self, pyramid: Tensor, before: Tensor, mass: Tensor) -> Tensor:
        """Return the new content of a window, (n, C, m).

        Args:
            pyramid: (n, C, m), the shape of the change.
            before: (n, C, m), the content that it is mixed with.
            mass: (n, C, 1), of the new content.
        """

    @staticmethod
    def side(share: float, height: int, width: int) -> int:
        """Return an odd side of at least 3, as far as the image has room."""
        side = max(round(math.sqrt(share * height * width)), 3)
        return min(side + 1 - side % 2, height, width)

    def start(self, starts: Starts) -> Tensor:
        """Tile the image with about 5 by 5 double pyramids and scale them to the ball, (B, C, H, W)."""
        channels, height, width = self.space.shape
        side = max(1, min(height, width) // 5)
        tall, wide = height // side, width // side
        signs = starts.noise.at("start").signs(tall, wide, channels, 1, 1)
        shapes = self.pyramids(side)
        chosen = shapes[starts.noise.at("orientation").integers(2, tall, wide)][:, :, :, None] * signs
        tiles = chosen.permute(0, 3, 1, 4, 2, 5).reshape(len(chosen), channels, tall * side, wide * side)
        top, left = (height - tall * side) // 2, (width - wide * side) // 2
        delta = torch.zeros_like(starts.images)
        delta[:, :, top : top + tall * side, left : left + wide * side] = tiles
        return self.inside(starts.images, delta, self.measure(delta).flatten(1).sum(1))

    def pyramids(self, side: int) -> Tensor:
        """Return (2, side, side): a double pyramid of length 1, and its transpose."""
        return _double_pyramids(side, self.power, self.order, self.space.device)

    def channel_mass(self, window: Tensor) -> Tensor:
        """Return the mass in each channel of ``window`` (n, C, m), (n, C, 1)."""
        return self.measure(window).sum(2, keepdim=True)

    def propose(self, side: int, slots: slice | Tensor, moves: Tensor) -> None:
        """Empty the second window and put its mass, and the mass that eps leaves unused, into the first.

        ``moves`` (n, 3 + C) are both corners, the orientation and the signs.
        """
        delta, channels = self.delta, self.space.shape[0]
        into, emptied = (self.windows(side, slots, moves[:, number]) for number in (0, 1))
        before, removed = into.read(delta), emptied.read(delta)
        emptied.write(delta, torch.zeros_like(removed))
        remaining = into.read(delta)  # less than before where the windows overlap
        pyramid = self.pyramids(side).flatten(1)[moves[:, 2]][:, None] * moves[:, 3:, None]
        unused = (self.capacity - self.mass[slots][:, None, None]).clamp_min_(0) / channels
        new = self.filled(pyramid, before, unused + (self.channel_mass(remaining) + self.channel_mass(removed)))
        into.write(delta, new)
        self.written += [Written(into, remaining, new), Written(emptied, removed, removed)]
        change = self.measure(new) - self.measure(remaining)
        mass = self.mass[slots] + change.sum((1, 2)) - self.measure(removed).sum((1, 2))
        for block in self.blocks(len(moves)):
            at = block if isinstance(slots, slice) else slots[block]
            self.point[at] = self.inside(self.origin[at], self.delta[at], mass[block])

    def leftover(self, rows: Rows) -> Tensor:
        """Return the best image of each finished run, (B, C, H, W)."""
        origin = self.origin[rows.device]
        return self.threat.project(origin + self.delta[rows.device], origin)

    def settle(self, better: np.ndarray) -> None:
        """Restore the perturbations, and replace them where ``better`` (B,) bool holds."""
        for change in self.written:
            change.windows.write(self.delta, change.old)
        rows = sent(torch.from_numpy(better.nonzero()[0]), self.space.device)
        self.delta[rows] = self.point[rows] - self.origin[rows]
        self.mass[rows] = self.measure(self.delta[rows]).flatten(1).sum(1)


class L2SquareSearch(PyramidSquareSearch):
    """The form for l2, whose mass is the sum of squares."""

    order = 2
    power = 2

    @staticmethod
    def measure(delta: Tensor) -> Tensor:
        """Return the squares of ``delta``, (...)."""
        return delta.square()

    @property
    def capacity(self) -> float:
        """Eps squared."""
        return self.threat.radius**2

    def inside(self, origin: Tensor, delta: Tensor, mass: Tensor) -> Tensor:
        """Return the images (B, C, H, W) with ``delta`` scaled to the border of the ball, in [0, 1]."""
        scale = self.threat.radius / mass.clamp_min(0).sqrt().add_(_TINY)
        return torch.addcmul(origin, delta, column(scale)).clamp_(0, 1)

    def filled(self, pyramid: Tensor, before: Tensor, mass: Tensor) -> Tensor:
        """Return the pyramid and the direction of the old content, mixed and scaled to ``mass``, (n, C, m)."""
        mixed = pyramid + before / self.channel_mass(before).sqrt().add_(_TINY)
        return mixed / self.channel_mass(mixed).sqrt().add_(_TINY) * mass.sqrt()


class L1SquareSearch(PyramidSquareSearch):
    """The form for l1 (arXiv 2103.01208), whose mass is the sum of absolute values."""

    order = 1
    power = 4

    @staticmethod
    def measure(delta: Tensor) -> Tensor:
        """Return the absolute values of ``delta``, (...)."""
        return delta.abs()

    @property
    def capacity(self) -> float:
        """The radius."""
        return self.threat.radius

    def inside(self, origin: Tensor, delta: Tensor, mass: Tensor) -> Tensor:
        """Return the projection of the images with ``delta``, (B, C, H, W)."""
        return self.threat.project(origin + delta, origin)

    def filled(self, pyramid: Tensor, before: Tensor, mass: Tensor) -> Tensor:
        """Return the pyramid and the direction of the old content, mixed and scaled, (n, C, m).

        To as many times ``mass`` as there are channels, as published; the projection follows.
        """
        mixed = pyramid + before / self.channel_mass(before).add_(_TINY)
        return mixed / self.channel_mass(mixed).add_(_TINY) * mass * self.space.shape[0]


@cache
def _double_pyramids(side: int, power: int, order: float, device: torch.device) -> Tensor:
    """Return (2, side, side): a pyramid above its negative, of norm 1, and its transpose (section 3.2 of the paper)."""
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


_FORMS: dict[Norm, type[SquareSearch]] = {"linf": LinfSquareSearch, "l2": L2SquareSearch, "l1": L1SquareSearch}


def square_search(space: Space, spec: Square) -> SquareSearch:
    """Return the search for the threat's norm."""
    return _FORMS[space.threat.norm](space, queries=spec.queries)
