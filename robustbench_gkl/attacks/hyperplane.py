"""Projections onto a hyperplane within [0, 1], without sorting.

The nearest point to t on {z : w.z = b} inside the box moves pixel i against the sign of w_i, by an amount that the
norm decides and the room up to the border of the box limits. Each norm leaves one unknown, of which the distance
covered along w is a monotone function, so it is found as the root of that function (the problem is that of Croce and
Hein, arXiv 1907.02044, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_gkl.exact import Norm

_TINY = 1e-12
_SUMS = 10
_CLOSE = 1e-3
"""By what share the last secant may still have moved the root: the next would move it by far less."""
_APART = 1e-4
_HALVINGS = 24


def water_level(weight: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Return the root t (...) of sum_i weight_i min(t, room_i) = target.

    The sum is concave in t and rises, so the secant through two points left of the root never overshoots it. From zero
    and from where the root would be if no pixel were limited, two or three sums do in practice. Where the
    sum cannot reach the target, the root is as good as infinite.

    Args:
        weight: at least 0; broadcasts with ``room``.
        room: (..., D), at least 0.
        target: (...), at least 0.
    """
    slope = weight.sum(-1).clamp_min_(_TINY).expand_as(target)
    level = target / slope
    before, reached = torch.zeros_like(level), torch.zeros_like(level)
    work = torch.empty_like(room)
    for _ in range(_SUMS):
        last, reached = reached, torch.minimum(room, level[..., None], out=work).mul_(weight).sum(-1)
        gone = level - before
        # Between two points that are almost one, rounding decides: the slope known before still holds.
        slope = torch.where(gone > _APART * level, (reached - last) / gone, slope).clamp_min_(_TINY)
        missing = (target - reached).clamp_min_(0).div_(slope)
        before, level = level, level + missing
        if level.device.type == "cpu" and bool((missing <= _CLOSE * level).all()):
            break  # on other devices to look would cost more than to go on
    return level


def _amount_linf(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """All pixels move by the same amount."""
    level = water_level(size, room, target)
    return torch.minimum(room, level[..., None], out=room)


def _amount_l2(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """All pixels move in proportion to their weight."""
    level = water_level(size.square(), room / size.clamp_min(_TINY), target)
    return torch.minimum(room, size * level[..., None], out=room)


def _amount_l1(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Pixels of the largest weight move all the way; those at the threshold share what is left."""
    gain = size * room
    low, high = torch.zeros_like(target), size.amax(-1).expand_as(target)
    work = torch.empty_like(room)
    # From the threshold ``low`` on, the gain suffices (or all pixels do not); from ``high`` on it falls short.
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = torch.gt(size, middle[..., None], out=work).mul_(gain).sum(-1) >= target
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    above = torch.gt(size, high[..., None], out=torch.empty_like(room))
    shared = torch.gt(size, low[..., None], out=work).sub_(above)
    missing = target - (gain * above).sum(-1)
    part = (missing / (gain * shared).sum(-1).clamp_min(_TINY)).clamp(0, 1)
    return room.mul_(above.add_(shared.mul_(part[..., None])))


_AMOUNTS = {"linf": _amount_linf, "l2": _amount_l2, "l1": _amount_l1}


class Hyperplanes:
    """One hyperplane {z : w.z = b} per sample.

    Args:
        normal: (B, D), the w; pixels where it is zero do not move.
        norm: in which distance is measured.
    """

    def __init__(self, normal: Tensor, *, norm: Norm) -> None:
        self._sign, self._size, self._norm = normal.sign(), normal.abs(), norm

    def step(self, points: Tensor, offset: Tensor) -> Tensor:
        """Return the shortest steps (..., B, D) from ``points`` to the hyperplanes that stay in [0, 1].

        Where a hyperplane does not meet the box, the step goes to the corner nearest to it.

        Args:
            points: (..., B, D), in [0, 1].
            offset: (..., B), w.points - b.
        """
        direction = self._sign * -offset.sign()[..., None]
        # A pixel that grows has room 1 - t, one that shrinks has t: with s the direction, 1/2 + s (1/2 - t).
        room = (0.5 - points).mul_(direction).add_(0.5)
        return _AMOUNTS[self._norm](self._size, room, offset.abs()).mul_(direction)
