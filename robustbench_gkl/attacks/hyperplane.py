"""Projections onto a hyperplane within [0, 1], without sorting.

The nearest point to t on {z : w.z = b} inside the box differs from t in each pixel i against the sign of w_i, by an
amount that depends on the norm and is limited by the room up to the border of the box. Each norm leaves one unknown,
the root of a monotone function: the distance covered along w less the distance to cover (the problem is that of Croce
and Hein, arXiv 1907.02044, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_gkl.core.exact import Norm

_TINY = 1e-12
_SUMS = 10
_SUMS_UNSEEN = 5
"""Sums where to look at the root would cost more than to go on: one more than any of 74,614 roots of FAB needed."""
_CLOSE = 1e-2
"""The last secant may have moved the root by this share at most: the next would move it by far less."""
_APART = 1e-4
_HALVINGS = 24


def water_level(weight: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Return the root t, (...), of sum_i weight_i min(t, room_i) = target.

    The sum is concave in t and rises, so the secant through two points left of the root never overshoots it. From zero
    and from where the root would be if no pixel were limited, two or three sums do in practice. Where the
    sum cannot reach the target, the root is as good as infinite.

    Args:
        weight: (..., D), at least 0; broadcasts with ``room``.
        room: (..., D), at least 0.
        target: (...), at least 0.
    """
    slope = weight.sum(-1).clamp_min_(_TINY).expand_as(target)
    level = target / slope
    before, reached = torch.zeros_like(level), torch.zeros_like(level)
    work = torch.empty_like(room)
    looks = room.device.type == "cpu"
    for _ in range(_SUMS if looks else _SUMS_UNSEEN):
        last, reached = reached, torch.minimum(room, level[..., None], out=work).mul_(weight).sum(-1)
        # Between two points that are almost one, rounding decides: there the slope known before holds.
        near = _APART * level
        gone = (level + near).sub_(before).clamp_min_(_TINY)
        slope = torch.addcmul(reached - last, slope, near).div_(gone).clamp_min_(_TINY)
        missing = (target - reached).clamp_min_(0).div_(slope)
        before, level = level, level + missing
        if looks and bool((missing <= _CLOSE * level).all()):
            break
    return level


def _amount_linf(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Return how far each pixel moves, (P, B, D): by the same amount, as far as its room goes.

    Args:
        size: (B, D), the absolute weights.
        room: (P, B, D), how far each pixel may move; overwritten.
        target: (P, B), the distance to cover along the weights.
    """
    level = water_level(size, room, target)
    return torch.minimum(room, level[..., None], out=room)


def _amount_l2(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Return how far each pixel moves, (P, B, D): in proportion to its weight. Arguments as for linf."""
    level = water_level(size.square(), room / size.clamp_min(_TINY), target)
    return torch.minimum(room, size * level[..., None], out=room)


def _amount_l1(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Return how far each pixel moves, (P, B, D). Arguments as for linf.

    Pixels of the largest weight move all the way; those at the threshold share the rest.
    """
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

    Attributes:
        sign: (B, D), of the normal.
    """

    def __init__(self, normal: Tensor, *, norm: Norm) -> None:
        self.sign, self._size, self._norm = normal.sign(), normal.abs(), norm

    def amounts(self, points: Sequence[Tensor], offset: Tensor) -> Tensor:
        """Return how far each pixel moves, (P, B, D), in the shortest steps to the hyperplanes that stay in [0, 1].

        Pixels move against the sign of the normal times that of the offset. Where a hyperplane does not meet the box,
        the step goes to the corner nearest to it.

        Args:
            points: P of (B, D), in [0, 1].
            offset: (P, B), w.points - b.
        """
        # A pixel that grows has room 1 - t, one that shrinks has t: with s against the direction, 1/2 + s (t - 1/2).
        room = offset.new_empty(len(points), *self.sign.shape)
        for part, point in zip(room, points, strict=True):
            torch.sub(point, 0.5, out=part).mul_(self.sign)
        room.mul_(offset.sign()[..., None]).add_(0.5)
        return _AMOUNTS[self._norm](self._size, room, offset.abs())
