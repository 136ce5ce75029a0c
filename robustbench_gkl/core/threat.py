"""Threat models: what an adversary may do to an image.

A :class:`ThreatModel` alone knows projection, distance, random start and steepest step, so that attacks are
written once for all norms. Images are float32 in [0, 1] of shape (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from robustbench_gkl.core.exact import Norm, check_radius, format_fraction, parse_norm
from robustbench_gkl.core.noise import Noise

_TINY = 1e-12
_BLOCK = 1 << 16
_ROOT_STEPS = 32
_SHRINKS = 0.75


def _flat(images: Tensor) -> Tensor:
    return images.reshape(images.shape[0], -1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Shape the per-sample ``values`` (B,) so that they broadcast over ``like`` (B, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _distance_linf(delta: Tensor) -> Tensor:
    flat = _flat(delta)
    return torch.maximum(flat.amax(1), flat.amin(1).neg_())  # faster than to write the absolute values down


def _distance_l2(delta: Tensor) -> Tensor:
    return _flat(delta).square().sum(1).sqrt()


def _distance_l1(delta: Tensor) -> Tensor:
    return _flat(delta).abs().sum(1)


def _project_linf(images: Tensor, origin: Tensor, eps: float) -> Tensor:
    return images.clamp(origin - eps, origin + eps).clamp(0, 1)


def _project_l2(images: Tensor, origin: Tensor, eps: float) -> Tensor:
    delta = images - origin
    length = _column(_distance_l2(delta), delta)
    return torch.where(length > eps, origin + delta * (eps / length.clamp_min(_TINY)), images).clamp(0, 1)


def _project_l1(images: Tensor, origin: Tensor, eps: float) -> Tensor:
    """Project exactly onto the intersection of the l1 ball and [0, 1] (Croce and Hein, arXiv 2103.01208).

    Every pixel goes back towards the origin by the same amount, the level, but no further than there, and is then
    clamped. The length that is left is piecewise linear and falling in the level: see :func:`_l1_level`.
    """
    moved, start = _flat(images), _flat(origin)
    delta = moved - start
    size, direction = delta.abs(), delta.sign()
    # A pixel that grows has room 1 - x, one that shrinks has x: with s the direction, 1/2 + s (1/2 - x).
    room = (0.5 - start).mul_(direction).add_(0.5)
    outside = torch.minimum(size, room).sum(1) > eps
    level = _l1_level(size, room, eps)
    kept = torch.minimum(torch.sub(size, level[:, None], out=delta).clamp_min_(0), room, out=delta)
    projected = torch.where(outside[:, None], torch.addcmul(start, direction, kept), moved)
    return projected.reshape(images.shape).clamp_(0, 1)


def _l1_level(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """Return the root t (B,) of sum_i min(max(size_i - t, 0), room_i) = eps, or 0 where the sum is below eps at 0.

    Newton's method, which takes two or three steps in practice, without sorting. As the sum is neither convex nor
    concave, steps that leave the bracket or do not shrink are replaced by halvings of it.
    """
    work, kept = torch.empty_like(size), torch.minimum(size, room)
    level = (kept.sum(1) - eps).clamp_min_(0) / (kept > 0).sum(1).clamp_min_(1)
    low, high = level, size.amax(1)
    if eps == 0:
        return high
    jump, rounding = high, torch.finfo(size.dtype).eps
    for _ in range(_ROOT_STEPS):
        torch.sub(size, level[:, None], out=work)
        torch.minimum(torch.clamp(work, min=0, out=kept), room, out=kept)
        excess = kept.sum(1) - eps
        step = excess / torch.eq(work, kept, out=work).sum(1)  # the pixels that are neither at zero nor full
        settled = (level == 0) | (excess.abs() <= 8 * rounding * eps) | (step.abs() <= rounding * level)
        if bool(settled.all()):
            break
        low, high = torch.where(excess > 0, level, low), torch.where(excess > 0, high, level)
        ahead = level + step
        sound = (ahead >= low) & (ahead <= high) & (step.abs() <= _SHRINKS * jump)
        ahead = torch.where(sound, ahead, (low + high) / 2)
        jump, level = (ahead - level).abs(), torch.where(settled, level, ahead)
    return level


def _step_linf(gradient: Tensor, images: Tensor, length: Tensor) -> Tensor:
    return gradient.sign() * length


def _step_l2(gradient: Tensor, images: Tensor, length: Tensor) -> Tensor:
    # A confident model's slopes are so small that their squares vanish in float32: scale the largest to 1 first.
    largest = _column(_distance_linf(gradient), gradient)
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled * (length / _column(_distance_l2(scaled), scaled).clamp_min(_TINY))


def _step_l1(gradient: Tensor, images: Tensor, length: Tensor) -> Tensor:
    """Spend ``length`` on the coordinates of largest slope, each as far as [0, 1] lets it go."""
    slope, start = _flat(gradient), _flat(images)
    room = torch.where(slope > 0, 1 - start, start) * (slope != 0)
    order = slope.abs().argsort(dim=1, descending=True, stable=True)
    sorted_room = room.gather(1, order)
    before = sorted_room.cumsum(1) - sorted_room
    spent = torch.minimum((length.reshape(-1, 1) - before).clamp_min(0), sorted_room)
    step = torch.zeros_like(slope).scatter(1, order, spent) * slope.sign()
    return step.reshape(gradient.shape)


def _start_linf(images: Tensor, noise: Noise, eps: float) -> Tensor:
    return (2 * noise.uniform(*images.shape[1:]) - 1) * eps


def _start_l2(images: Tensor, noise: Noise, eps: float) -> Tensor:
    direction = noise.at("direction").normal(*images.shape[1:])
    radius = noise.at("radius").uniform() ** (1 / math.prod(images.shape[1:]))
    return direction * _column(eps * radius / _distance_l2(direction).clamp_min(_TINY), images)


def _start_l1(images: Tensor, noise: Noise, eps: float) -> Tensor:
    # Exponential spacings with one more than the dimension are uniform in the l1 ball (Laplace direction).
    shape = images.shape[1:]
    spacings = -torch.log1p(-noise.at("direction").uniform(*shape))
    rest = -torch.log1p(-noise.at("radius").uniform())
    scale = eps / (_distance_l1(spacings) + rest).clamp_min(_TINY)
    return spacings * noise.at("sign").signs(*shape) * _column(scale, images)


@dataclass(frozen=True)
class _Geometry:
    """What differs between norms."""

    distance: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor, float], Tensor]
    step: Callable[[Tensor, Tensor, Tensor], Tensor]
    start: Callable[[Tensor, Noise, float], Tensor]


_GEOMETRY = {
    "linf": _Geometry(_distance_linf, _project_linf, _step_linf, _start_linf),
    "l2": _Geometry(_distance_l2, _project_l2, _step_l2, _start_l2),
    "l1": _Geometry(_distance_l1, _project_l1, _step_l1, _start_l1),
}


@dataclass(frozen=True)
class ThreatModel:
    """All images in [0, 1] within distance ``eps`` of the original in ``norm``.

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        eps: the radius in the [0, 1] image scale, kept as an exact fraction; text such as ``"8/255"`` is parsed.

    Raises:
        UserError: an unknown norm; an eps that is no number, negative, or above 1 for linf.
    """

    norm: Norm
    eps: Fraction

    def __init__(self, norm: str, eps: str | int | float | Fraction) -> None:
        object.__setattr__(self, "eps", check_radius(norm, eps))
        object.__setattr__(self, "norm", parse_norm(norm))

    def __str__(self) -> str:
        return f"{self.norm} {format_fraction(self.eps)}"

    @property
    def radius(self) -> float:
        """``eps`` as a float."""
        return float(self.eps)

    def with_eps(self, eps: str | int | float | Fraction) -> ThreatModel:
        """Return the same norm with another radius."""
        return ThreatModel(self.norm, eps)

    def distance(self, images: Tensor, origin: Tensor) -> Tensor:
        """Return (B,): how far each of ``images`` (B, ...) is from its ``origin`` (B, ...)."""
        return _GEOMETRY[self.norm].distance(images - origin)

    def length(self, steps: Tensor) -> Tensor:
        """Return (B,): the norm of each of ``steps`` (B, ...)."""
        return _GEOMETRY[self.norm].distance(steps)

    def project(self, images: Tensor, origin: Tensor) -> Tensor:
        """Return the images (B, ...) brought into the ball around ``origin`` and into [0, 1].

        This is the nearest such image for linf and l1; for l2 it is the projection onto the ball, clamped.
        """
        return _GEOMETRY[self.norm].project(images, origin, self.radius)

    def steepest(self, gradient: Tensor, images: Tensor, length: float | Tensor) -> Tensor:
        """Return the step (B, ...) of the given length in this norm along which ``gradient`` rises most.

        Args:
            gradient: (B, ...), the slope of what is maximised at ``images``; zero slopes are not stepped along.
            images: (B, ...), the points stepped from. For l1 the step ends inside [0, 1] there, since a step on
                the few steepest pixels would otherwise leave the range; for the other norms it may leave it.
            length: one length, or one per sample broadcastable to (B, 1, ...).
        """
        sized = torch.as_tensor(length, dtype=gradient.dtype, device=gradient.device)
        sized = sized.expand(gradient.shape[0], *[1] * (gradient.dim() - 1)) if sized.dim() == 0 else sized
        return _GEOMETRY[self.norm].step(gradient, images, sized)

    def random_start(self, images: Tensor, noise: Noise) -> Tensor:
        """Return images (B, ...) drawn uniformly from the ball around ``images``, clamped to [0, 1]."""
        return (images + _GEOMETRY[self.norm].start(images, noise, self.radius)).clamp(0, 1)

    def contains(self, images: Tensor, origin: Tensor) -> Tensor:
        """Return (B,) bool: finite, in [0, 1] and in the ball.

        A pixel of origin + delta is off by up to 2^-25 when it is rounded to float32, and an attack that measures
        lengths in float32 errs by less than 1e-5 of them. Twice the first, as a length in this norm, and 1e-5 eps
        are allowed: an image on the ball is inside, and at the radii in use one at 1.001 eps is not.
        """
        flat = _flat(images)
        rounding = torch.full((1, flat.shape[1]), 2.0**-24, dtype=torch.float64)
        slack = float(_GEOMETRY[self.norm].distance(rounding)) + 1e-5 * self.radius
        inside = flat.isfinite().all(1) & (flat >= 0).all(1) & (flat <= 1).all(1)
        # In float64 all images at once would take more memory than an attack's state.
        rows = max(1, _BLOCK // flat.shape[1])
        pairs = zip(images.split(rows), origin.split(rows), strict=True)  # type: ignore[no-untyped-call]
        distance = torch.cat([self.distance(image.double(), start.double()) for image, start in pairs])
        return inside & (distance <= self.radius + slack)
