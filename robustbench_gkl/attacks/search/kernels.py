"""Steps of searches, compiled by numba: a row stays in the cache from the first pass over it to the last.

Each kernel does in the memory of the slots what its search does in torch, where the formulas are explained. Rows are
(D,) of float32. Sums may be taken in any order within a piece of a row, so by vectors, and pieces are added in float64;
NaN and infinity keep their meaning. To import this module is to compile it: a few seconds once, then half a one, as
numba keeps what it compiled. Its cache looks at this file alone, so that constants of others are arguments, or copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np

if numba.config.DISABLE_JIT:
    raise ImportError("numba compiles nothing: NUMBA_DISABLE_JIT is set")

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Number: TypeAlias = Any
"""A float32; a float64 where the annotation is ``float``."""

_ANY_ORDER = {"reassoc", "nsz", "contract"}
_PIECE = 1024
_TINY = 1e-12
_SUMS, _CLOSE, _APART, _HALVINGS = 10, 1e-2, 1e-4, 24
"""As in :mod:`robustbench_gkl.attacks.hyperplane`."""
_ZERO: _Number = np.float32(0)
_HALF: _Number = np.float32(0.5)
_ONE: _Number = np.float32(1)


def _part(function: _Function) -> _Function:
    """Compile ``function`` as a part of those that call it."""
    compiled: _Function = numba.njit(function, fastmath=_ANY_ORDER, nogil=True)
    return compiled


def _kernel(*arguments: str) -> Callable[[_Function], _Function]:
    """Compile a function of ``arguments`` (numba's types) now, or take it from numba's cache."""

    def compiled(function: _Function) -> _Function:
        def made(*, cache: bool) -> _Function:
            signature = f"void({', '.join(arguments)})"
            kernel: _Function = numba.njit(signature, fastmath=_ANY_ORDER, nogil=True, cache=cache)(function)
            return kernel

        try:
            return made(cache=True)
        except Exception:  # no folder that a cache can be written to, no room in it, or a damaged file, of any kind
            return made(cache=False)

    return compiled


@_part
def _sign(value: _Number) -> _Number:
    return _ONE if value > 0 else (-_ONE if value < 0 else _ZERO)


@_part
def _clamped(value: _Number, low: _Number, high: _Number) -> _Number:
    return min(max(value, low), high)


@_part
def _largest(steps: np.ndarray) -> _Number:
    """Return the largest absolute value of ``steps`` (D,)."""
    most = np.int32(0)
    for i in range(steps.size):
        # The bits of numbers above zero have the order of the numbers, and their maximum can be taken by vectors.
        most = max(most, np.float32(abs(steps[i])).view(np.int32))
    return np.int32(most).view(np.float32)


@_part
def _total(steps: np.ndarray, order: float) -> float:
    """Return the sum of the squares of ``steps`` (D,) for l2, of their absolute values for l1."""
    total = 0.0
    for first in range(0, steps.size, _PIECE):
        d, part = steps[first : first + _PIECE], _ZERO
        for i in range(d.size):
            part += d[i] * d[i] if order == 2 else abs(d[i])
        total += part
    return total


@_part
def _length(steps: np.ndarray, order: float) -> _Number:
    """Return the norm of ``steps`` (D,)."""
    if order == np.inf:
        return _largest(steps)
    return np.float32(np.sqrt(_total(steps, order)) if order == 2 else _total(steps, order))


@_part
def _slopes(point: np.ndarray, origin: np.ndarray, gradient: np.ndarray, order: float) -> tuple[float, float]:
    """Return the sum of (x0_i - x_i) w_i, and that of |w_i| s_i; see :func:`_covered`."""
    along, steepness = 0.0, 0.0
    for first in range(0, point.size, _PIECE):
        x, x0, w = point[first : first + _PIECE], origin[first : first + _PIECE], gradient[first : first + _PIECE]
        along_part, steepness_part = _ZERO, _ZERO
        for i in range(x.size):
            along_part += (x0[i] - x[i]) * w[i]
            steepness_part += abs(w[i]) * (abs(w[i]) if order == 2 else _ONE)
        along += along_part
        steepness += steepness_part
    return along, steepness


@_part
def _set_room(room: np.ndarray, point: np.ndarray, gradient: np.ndarray, sign: _Number) -> None:
    """Set how far each pixel can move against ``sign`` times the gradient."""
    for i in range(room.size):
        room[i] = (point[i] - _HALF) * (_sign(gradient[i]) * sign) + _HALF


@_part
def _covered(gradient: np.ndarray, room: np.ndarray, level: _Number, order: float) -> float:
    """Return the sum of |w_i| min(t s_i, room_i) at the level t, where s_i is 1 for linf and |w_i| for l2."""
    total = 0.0
    for first in range(0, room.size, _PIECE):
        w, r, part = gradient[first : first + _PIECE], room[first : first + _PIECE], _ZERO
        for i in range(r.size):
            part += abs(w[i]) * min(level * abs(w[i]) if order == 2 else level, r[i])
        total += part
    return total


@_part
def _cut_at_levels(gradient: np.ndarray, room: np.ndarray, target: np.ndarray, steepness: float, order: float) -> None:
    """Turn ``room`` (2, D) into how far each pixel moves, for linf and l2; see ``water_level``. ``target`` is (2,)."""
    slope = np.full(2, max(steepness, _TINY))
    level, before, reached = target / slope, np.zeros(2), np.zeros(2)
    for _ in range(_SUMS):
        close = True
        for end in range(2):
            last, reached[end] = reached[end], _covered(gradient, room[end], np.float32(level[end]), order)
            near = _APART * level[end]
            gone = max(level[end] + near - before[end], _TINY)
            slope[end] = max((reached[end] - last + slope[end] * near) / gone, _TINY)
            missing = max(target[end] - reached[end], 0.0) / slope[end]
            before[end], level[end] = level[end], level[end] + missing
            close = close and missing <= _CLOSE * level[end]
        if close:
            break
    for end in range(2):
        limit, amount = np.float32(level[end]), room[end]
        for i in range(amount.size):
            amount[i] = min(limit * abs(gradient[i]) if order == 2 else limit, amount[i])


@_part
def _gain(gradient: np.ndarray, room: np.ndarray, threshold: _Number) -> float:
    """Return the sum of |w_i| room_i over the pixels with |w_i| above the threshold."""
    total = 0.0
    for first in range(0, room.size, _PIECE):
        w, r, part = gradient[first : first + _PIECE], room[first : first + _PIECE], _ZERO
        for i in range(r.size):
            part += abs(w[i]) * r[i] if abs(w[i]) > threshold else _ZERO
        total += part
    return total


@_part
def _keep_steepest(gradient: np.ndarray, room: np.ndarray, target: float) -> None:
    """Turn ``room`` into how far each pixel moves, for l1; see ``hyperplane``."""
    low, high = _ZERO, _largest(gradient)
    for _ in range(_HALVINGS):
        middle = (low + high) * _HALF
        if _gain(gradient, room, middle) >= target:
            low = middle
        else:
            high = middle
    sure = _gain(gradient, room, high)
    shared = max(_gain(gradient, room, low) - sure, _TINY)
    part = np.float32(_clamped((target - sure) / shared, 0.0, 1.0))
    for i in range(room.size):
        size = abs(gradient[i])
        room[i] *= _ONE if size > high else (part if size > low else _ZERO)


@_part
def _set_mean(
    point: np.ndarray, origin: np.ndarray, gradient: np.ndarray, amount: np.ndarray, share: tuple[_Number, ...]
) -> None:
    """Set ``point`` to the mean of both ends of FAB's step, where pixels move by ``amount`` (2, D)."""
    alpha, near, far = share
    x, ahead, behind = point, amount[0], amount[1]
    for i in range(x.size):
        step = (ahead[i] * near + behind[i] * far) * _sign(gradient[i])
        x[i] = _clamped(x[i] + alpha * (origin[i] - x[i]) + step, _ZERO, _ONE)


@_kernel("f4[:,::1]", "f4[:,::1]", "f4[:]", "i8[:]", "f4[:]", "f4[:,::1]", "i8[:]", "f8", "f8", "f8")
def fab_step(
    point: np.ndarray,
    origin: np.ndarray,
    distance: np.ndarray,
    slots: np.ndarray,
    value: np.ndarray,
    gradient: np.ndarray,
    places: np.ndarray,
    order: float,
    eta: float,
    alpha_max: float,
) -> None:
    """Take a step of FAB in each of ``slots``; see ``FABSearch.stepped``.

    Args:
        point: (slots, D), the current points; overwritten.
        origin: (slots, D), the originals.
        distance: (slots,), of the points; overwritten.
        slots: (B,).
        value: (n,), the objective.
        gradient: (n, D), its gradient.
        places: (B,), where in both each slot's are.
        order: of the norm.
        eta: how far a step overshoots.
        alpha_max: the original's greatest weight.
    """
    amount = np.empty((2, point.shape[1]), np.float32)
    for row in range(slots.size):
        x, x0, w = point[slots[row]], origin[slots[row]], gradient[places[row]]
        ahead, (along, steepness) = np.float64(value[places[row]]), _slopes(x, x0, w, order)
        behind = ahead + along
        sign_ahead, sign_behind = _sign(ahead), _sign(behind)
        _set_room(amount[0], x, w, sign_ahead)
        _set_room(amount[1], x0, w, sign_behind)
        if order == 1:
            _keep_steepest(w, amount[0], abs(ahead))
            _keep_steepest(w, amount[1], abs(behind))
        else:
            _cut_at_levels(w, amount, np.array([abs(ahead), abs(behind)]), steepness, order)
        near, far = max(_length(amount[0], order), 1e-8), max(_length(amount[1], order), 1e-8)
        alpha = min(near / (near + far), alpha_max)
        shares = alpha, -eta * (1 - alpha) * sign_ahead, -eta * alpha * sign_behind
        _set_mean(x, x0, w, amount, (np.float32(shares[0]), np.float32(shares[1]), np.float32(shares[2])))
        distance[slots[row]] = _length(x - x0, order)


@_kernel("f4[:,::1]", "f4[:,::1]", "f4[:]", "i8[:]", "f8")
def draw_back(point: np.ndarray, origin: np.ndarray, distance: np.ndarray, slots: np.ndarray, share: float) -> None:
    """Bring the points of ``slots`` (B,) back to a ``share`` of their distances from the originals."""
    away = np.float32(1 - share)
    for slot in slots:
        x, x0 = point[slot], origin[slot]
        for i in range(x.size):
            x[i] -= (x[i] - x0[i]) * away
        distance[slot] *= np.float32(share)
