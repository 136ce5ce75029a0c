"""What differs between norms: one class a norm, with the formulas that a threat model needs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_gkl.core.exact import Norm
from robustbench_gkl.core.noise import Noise

TINY = 1e-12
_ROOT_STEPS = 32
_SHRINKS = 0.75


def flat(images: Tensor) -> Tensor:
    """Return ``images`` (B, ...) as (B, D)."""
    return images.reshape(images.shape[0], -1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return the per-sample ``values`` (B,) in the shape (B, 1, ...), which broadcasts over ``like`` (B, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def per_sample(length: float | Tensor, like: Tensor) -> Tensor:
    """Return one ``length``, or one per sample as (B, 1, ...), as (B, 1, ...) for ``like`` (B, ...)."""
    sized = torch.as_tensor(length, dtype=like.dtype, device=like.device)
    return sized.expand(like.shape[0], *[1] * (like.dim() - 1)) if sized.dim() == 0 else sized


class Geometry(ABC):
    """The formulas of one norm. Images are in [0, 1]; all tensors are (B, ...) unless said otherwise."""

    order: ClassVar[float]
    """Of the norm."""
    dual: ClassVar[float]
    """The order of the dual norm: a step of length 1 in this norm raises w.x by at most the dual norm of w."""
    box: ClassVar[bool] = False
    """Whether a ball is a box."""

    @staticmethod
    @abstractmethod
    def length(steps: Tensor) -> Tensor:
        """Return the norm of each of ``steps`` (B, ...), (B,)."""

    @classmethod
    def length_of_sizes(cls, sizes: Tensor) -> Tensor:
        """Return the norm of each of ``sizes`` (B, ...), none below 0, (B,)."""
        return cls.length(sizes)

    @staticmethod
    @abstractmethod
    def project(images: Tensor, origin: Tensor, eps: float, *, out: Tensor | None = None) -> Tensor:
        """Return ``images`` brought into the ball of radius ``eps`` around ``origin`` and into [0, 1].

        Args:
            images: (B, ...).
            origin: (B, ...) in [0, 1].
            eps: the radius.
            out: where to write the result, (B, ...); may be ``images``. None for a new tensor.
        """

    @staticmethod
    @abstractmethod
    def step(gradient: Tensor, images: Tensor, length: Tensor) -> Tensor:
        """Return the step (B, ...) of ``length`` (B, 1, ...) from ``images`` along which ``gradient`` rises most."""

    @staticmethod
    @abstractmethod
    def ball_sample(images: Tensor, noise: Noise, eps: float) -> Tensor:
        """Return perturbations of ``images`` (B, ...), uniform in the ball of radius ``eps`` around zero."""

    @staticmethod
    def direction(images: Tensor, noise: Noise) -> Tensor:
        """Return perturbations of ``images`` (B, ...) of random direction and any length, none of it zero."""
        return noise.normal(*images.shape[1:])


class _Linf(Geometry):
    order = math.inf
    dual = 1.0
    box = True

    @staticmethod
    def length(steps: Tensor) -> Tensor:
        pixels = flat(steps)
        return torch.maximum(pixels.amax(1), pixels.amin(1).neg_())  # faster than to write the absolute values down

    @classmethod
    def length_of_sizes(cls, sizes: Tensor) -> Tensor:
        return flat(sizes).amax(1)

    @staticmethod
    def project(images: Tensor, origin: Tensor, eps: float, *, out: Tensor | None = None) -> Tensor:
        return torch.clamp(images.clamp(origin - eps, origin + eps), 0, 1, out=out)

    @staticmethod
    def step(gradient: Tensor, images: Tensor, length: Tensor) -> Tensor:
        return gradient.sign() * length

    @staticmethod
    def ball_sample(images: Tensor, noise: Noise, eps: float) -> Tensor:
        return _Linf.direction(images, noise) * eps

    @staticmethod
    def direction(images: Tensor, noise: Noise) -> Tensor:
        return 2 * noise.uniform(*images.shape[1:]) - 1


class _L2(Geometry):
    order = 2.0
    dual = 2.0

    @staticmethod
    def length(steps: Tensor) -> Tensor:
        return flat(steps).square().sum(1).sqrt()

    @staticmethod
    def project(images: Tensor, origin: Tensor, eps: float, *, out: Tensor | None = None) -> Tensor:
        delta = images - origin
        length = column(_L2.length(delta), delta)
        inside = torch.where(length > eps, origin + delta * (eps / length.clamp_min(TINY)), images)
        return torch.clamp(inside, 0, 1, out=out)

    @staticmethod
    def step(gradient: Tensor, images: Tensor, length: Tensor) -> Tensor:
        # A confident model's slopes are so small that their squares vanish in float32: scale the largest to 1 first.
        largest = column(_Linf.length(gradient), gradient)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        return scaled * (length / column(_L2.length(scaled), scaled).clamp_min(TINY))

    @staticmethod
    def ball_sample(images: Tensor, noise: Noise, eps: float) -> Tensor:
        direction = noise.at("direction").normal(*images.shape[1:])
        radius = noise.at("radius").uniform() ** (1 / math.prod(images.shape[1:]))
        return direction * column(eps * radius / _L2.length(direction).clamp_min(TINY), images)


class _L1(Geometry):
    order = 1.0
    dual = math.inf

    @staticmethod
    def length(steps: Tensor) -> Tensor:
        return flat(steps).abs().sum(1)

    @staticmethod
    def project(images: Tensor, origin: Tensor, eps: float, *, out: Tensor | None = None) -> Tensor:
        """Project exactly onto the intersection of the l1 ball and [0, 1] (Croce and Hein, arXiv 2103.01208).

        Every pixel goes back towards the origin by the same amount, the level, but no further than there, and is then
        clamped. The length that is left is piecewise linear and falling in the level: see :func:`_l1_level`.
        """
        moved, start = flat(images), flat(origin)
        delta = moved - start
        size, direction = delta.abs(), delta.sign()
        # A pixel that grows has room 1 - x, one that shrinks has x: with s the direction, 1/2 + s (1/2 - x).
        room = (0.5 - start).mul_(direction).add_(0.5)
        outside = torch.minimum(size, room).sum(1) > eps
        level = _l1_level(size, room, eps)
        kept = torch.minimum(torch.sub(size, level[:, None], out=delta).clamp_min_(0), room, out=delta)
        projected = torch.where(outside[:, None], torch.addcmul(start, direction, kept), moved)
        projected = projected.reshape(images.shape)
        return torch.clamp(projected, 0, 1, out=projected if out is None else out)

    @staticmethod
    def step(gradient: Tensor, images: Tensor, length: Tensor) -> Tensor:
        """Spend ``length`` (B, 1, ...) on the coordinates of largest slope, each as far as [0, 1] lets it go."""
        slope, start = flat(gradient), flat(images)
        room = torch.where(slope > 0, 1 - start, start) * (slope != 0)
        order = slope.abs().argsort(dim=1, descending=True, stable=True)
        sorted_room = room.gather(1, order)
        before = sorted_room.cumsum(1) - sorted_room
        spent = torch.minimum((length.reshape(-1, 1) - before).clamp_min(0), sorted_room)
        step = torch.zeros_like(slope).scatter(1, order, spent) * slope.sign()
        return step.reshape(gradient.shape)

    @staticmethod
    def ball_sample(images: Tensor, noise: Noise, eps: float) -> Tensor:
        # Exponential spacings with one more than the dimension are uniform in the l1 ball (Laplace direction).
        shape = images.shape[1:]
        spacings = -torch.log1p(-noise.at("direction").uniform(*shape))
        rest = -torch.log1p(-noise.at("radius").uniform())
        scale = eps / (_L1.length(spacings) + rest).clamp_min(TINY)
        return spacings * noise.at("sign").signs(*shape) * column(scale, images)


def _l1_level(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """Return the root t (B,) of sum_i min(max(size_i - t, 0), room_i) = eps, or 0 where the sum is below eps at 0.

    Newton's method, which takes two or three steps in practice, without sorting. As the sum is neither convex nor
    concave, steps that leave the bracket or do not shrink are replaced by halvings of it.

    Args:
        size: (B, D), at least 0: how far each pixel has moved.
        room: (B, D), at least 0: how far it may move.
        eps: the radius.
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


GEOMETRY: dict[Norm, type[Geometry]] = {"linf": _Linf, "l2": _L2, "l1": _L1}
