"""Threat models: what an adversary may do to an image.

A :class:`ThreatModel` alone has projection, distance, random starts and the steepest step, so that attacks are
written once for all norms. Images are float32 in [0, 1] of shape (B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from robustbench_gkl.core.exact import Norm, check_radius, format_fraction, parse_norm
from robustbench_gkl.core.feasible import FeasibleBall, FeasibleBox, FeasibleSet
from robustbench_gkl.core.geometry import GEOMETRY, TINY, Geometry, column, flat, per_sample
from robustbench_gkl.core.noise import Noise

_BLOCK = 1 << 16


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

    def __repr__(self) -> str:
        return f"ThreatModel({self.norm!r}, {format_fraction(self.eps)!r})"

    @property
    def radius(self) -> float:
        """``eps`` as a float."""
        return float(self.eps)

    def with_eps(self, eps: str | int | float | Fraction) -> ThreatModel:
        """Return the same norm with another radius."""
        return ThreatModel(self.norm, eps)

    @property
    def geometry(self) -> type[Geometry]:
        """The formulas of the norm."""
        return GEOMETRY[self.norm]

    def distance(self, images: Tensor, origin: Tensor) -> Tensor:
        """Return (B,): how far each of ``images`` (B, ...) is from its ``origin`` (B, ...)."""
        return self.geometry.length(images - origin)

    def length(self, steps: Tensor) -> Tensor:
        """Return (B,): the norm of each of ``steps`` (B, ...)."""
        return self.geometry.length(steps)

    def dual_length(self, slopes: Tensor) -> Tensor:
        """Return (B,): the dual norm of each of ``slopes`` (B, ...), by which a step of length 1 can rise at most."""
        lengths: Tensor = torch.linalg.vector_norm(slopes.flatten(1), ord=self.geometry.dual, dim=1)
        return lengths

    def project(self, images: Tensor, origin: Tensor) -> Tensor:
        """Return the images (B, ...) brought into the ball around ``origin`` and into [0, 1].

        This is the nearest such image for linf and l1; for l2 it is the projection onto the ball, clamped.
        """
        return self.geometry.project(images, origin, self.radius)

    def steepest(self, gradient: Tensor, images: Tensor, length: float | Tensor) -> Tensor:
        """Return the step (B, ...) of the given length in this norm along which ``gradient`` rises most.

        Args:
            gradient: (B, ...), the slope of what is maximised at ``images``; zero slopes are not stepped along.
            images: (B, ...), the points stepped from. For l1 the step ends inside [0, 1] there, since a step on
                the few steepest pixels would otherwise leave the range; for the other norms it may leave it.
            length: one length, or one per sample broadcastable to (B, 1, ...).
        """
        return self.geometry.step(gradient, images, per_sample(length, gradient))

    def random_start(self, images: Tensor, noise: Noise) -> Tensor:
        """Return images (B, ...) drawn uniformly from the ball around ``images``, clamped to [0, 1]."""
        return (images + self.geometry.ball_sample(images, noise, self.radius)).clamp(0, 1)

    def sphere_start(self, images: Tensor, noise: Noise) -> Tensor:
        """Return images (B, ...) at distance eps from ``images`` in a random direction, clamped to [0, 1].

        Pixels of the direction are uniform for linf, and normal for l2 and l1.
        """
        direction = self.geometry.direction(images, noise)
        scale = column(self.radius / self.length(direction).clamp_min(TINY), direction)
        return (images + direction * scale).clamp_(0, 1)

    def feasible_set(self, rows: int, shape: Sequence[int], *, device: torch.device) -> FeasibleSet:
        """Return the sets around ``rows`` originals of ``shape``, to be set later, for steps in place."""

        def images() -> Tensor:
            return torch.zeros(rows, *shape, device=device)

        if self.geometry.box:
            return FeasibleBox(self.radius, images(), images())
        return FeasibleBall(self.geometry, self.radius, images())

    def grey_radius(self, shape: Sequence[int]) -> float:
        """Return the radius at which any image of ``shape`` can be made grey: 0.5 in each pixel and channel."""
        half = torch.full((1, math.prod(shape)), 0.5, dtype=torch.float64)
        return float(self.length(half))

    def contains(self, images: Tensor, origin: Tensor) -> Tensor:
        """Return (B,) bool: finite, in [0, 1] and in the ball.

        A pixel of origin + delta is off by up to 2^-25 when it is rounded to float32, and an attack that measures
        lengths in float32 errs by less than 1e-5 of them. Twice the first, as a length in this norm, and 1e-5 eps
        are allowed: an image on the ball is inside, and at the radii in use one at 1.001 eps is not.
        """
        pixels = flat(images)
        rounding = torch.full((1, pixels.shape[1]), 2.0**-24, dtype=torch.float64)
        slack = float(self.geometry.length(rounding)) + 1e-5 * self.radius
        inside = pixels.isfinite().all(1) & (pixels >= 0).all(1) & (pixels <= 1).all(1)
        # In float64 all images at once would take more memory than an attack's state.
        rows = max(1, _BLOCK // pixels.shape[1])
        pairs = zip(images.split(rows), origin.split(rows), strict=True)  # type: ignore[no-untyped-call]
        distance = torch.cat([self.distance(image.double(), start.double()) for image, start in pairs])
        return inside & (distance <= self.radius + slack)
