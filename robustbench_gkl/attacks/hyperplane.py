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
_NEWTON_STEPS = 6
_HALVINGS = 24


def water_level(weight: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Return the root t (B,) of sum_i weight_i min(t, room_i) = target.

    The sum is concave and piecewise linear in t, so Newton's method from the left never overshoots and ends on the
    right piece after as many steps as there are kinks on the way that matter; a handful in practice. Where the sum
    cannot reach the target, the root is as good as infinite.

    Args:
        weight, room: (B, D), at least 0.
        target: (B,), at least 0.
    """
    level = target / weight.sum(1).clamp_min_(_TINY)
    work = torch.empty_like(room)
    for _ in range(_NEWTON_STEPS):
        column = level[:, None]
        torch.minimum(room, column, out=work)
        missing = target - work.mul_(weight).sum(1)
        torch.gt(room, column, out=work)
        level = level + missing.clamp_min_(0) / work.mul_(weight).sum(1).clamp_min_(_TINY)
    return level


def _amount_linf(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """All pixels move by the same amount."""
    level = water_level(size, room, target)
    return torch.minimum(room, level[:, None], out=room)


def _amount_l2(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """All pixels move in proportion to their weight."""
    level = water_level(size.square(), room / size.clamp_min(_TINY), target)
    return torch.minimum(room, size * level[:, None], out=room)


def _amount_l1(size: Tensor, room: Tensor, target: Tensor) -> Tensor:
    """Pixels of the largest weight move all the way; those at the threshold share what is left."""
    gain = size * room
    low, high = torch.zeros_like(target), size.amax(1)
    # Above the threshold the gain falls short of the target (or nothing is above); from the threshold on it suffices.
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = (gain * (size > middle[:, None])).sum(1) >= target
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    whole = (size > high[:, None]).to(size.dtype)
    shared = (size > low[:, None]) - whole
    missing = target - (gain * whole).sum(1)
    part = (missing / (gain * shared).sum(1).clamp_min(_TINY)).clamp(0, 1)
    return room.mul_(whole.add_(shared.mul_(part[:, None])))


_AMOUNTS = {"linf": _amount_linf, "l2": _amount_l2, "l1": _amount_l1}


def to_hyperplane(points: Tensor, normal: Tensor, offset: Tensor, *, norm: Norm) -> Tensor:
    """Return the shortest step (B, D) from ``points`` to {z : normal.z = offset} that stays in [0, 1].

    Where the hyperplane does not meet the box, the step goes to the corner nearest to it.

    Args:
        points: (B, D), in [0, 1].
        normal: (B, D); pixels where it is zero do not move.
        offset: (B,), how far ``points`` are from the hyperplane: normal.points - b.
        norm: in which the step is shortest.
    """
    sign = normal.sign().mul_(offset.sign().neg_()[:, None])
    size = normal.abs()
    # The room of a pixel that grows is 1 - t, of one that shrinks t: s (1/2 - t) + 1/2, and nothing where s is 0.
    room = (0.5 - points).mul_(sign).add_(0.5).mul_(sign.abs()).clamp_min_(0)
    return _AMOUNTS[norm](size, room, offset.abs()).mul_(sign)
