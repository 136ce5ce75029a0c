"""The threat model's sets around many images at once, for searches that take many steps in place."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from robustbench_gkl.core.geometry import Geometry, per_sample


class FeasibleSet(ABC):
    """For each of B originals the images in [0, 1] within a radius of it. The originals are zero until :meth:`put`."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The state, (B, ...) each; a row of all of them is one sample's set."""

    @abstractmethod
    def put(self, at: slice | Tensor, originals: Tensor) -> None:
        """Set the rows ``at`` to the sets around ``originals``, (n, ...) in [0, 1]."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> FeasibleSet:
        """Return the sets of ``rows``, which share memory with these."""

    @abstractmethod
    def ascend(self, points: Tensor, gradient: Tensor, length: float | Tensor, *, out: Tensor) -> Tensor:
        """Write ``points`` plus the step of steepest ascent to ``out`` and return it; nothing is projected.

        Args:
            points: (B, ...) in [0, 1].
            gradient: (B, ...), the slope of what is maximised; may be overwritten.
            length: of the step in the threat's norm, one or one per sample as (B, 1, ...).
            out: (B, ...); may be ``points`` or ``gradient``.
        """

    @abstractmethod
    def project_(self, points: Tensor) -> Tensor:
        """Project ``points`` (B, ...) in place, as :meth:`ThreatModel.project` does, and return them."""


class FeasibleBox(FeasibleSet):
    """Where the ball is a box, as for linf: its corners, (B, ...) each, are computed once."""

    def __init__(self, radius: float, low: Tensor, high: Tensor) -> None:
        self.radius, self.low, self.high = radius, low, high

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The corners, (B, ...) each."""
        return self.low, self.high

    def put(self, at: slice | Tensor, originals: Tensor) -> None:
        """Set the corners of the rows ``at``, given ``originals`` (n, ...)."""
        self.low[at] = (originals - self.radius).clamp_(0, 1)
        self.high[at] = (originals + self.radius).clamp_(0, 1)

    def __getitem__(self, rows: slice) -> FeasibleBox:
        """Return the boxes of ``rows``."""
        return FeasibleBox(self.radius, self.low[rows], self.high[rows])

    def ascend(self, points: Tensor, gradient: Tensor, length: float | Tensor, *, out: Tensor) -> Tensor:
        """Return ``out`` = points + length sign(gradient), (B, ...); the gradient is overwritten."""
        sign = gradient.sign_()
        if isinstance(length, Tensor):
            return torch.addcmul(points, sign, length, out=out)
        return torch.add(points, sign, alpha=length, out=out)

    def project_(self, points: Tensor) -> Tensor:
        """Clamp ``points`` (B, ...)."""
        return torch.clamp(points, self.low, self.high, out=points)


class FeasibleBall(FeasibleSet):
    """Where the ball is not a box, as for l2 and l1: the originals, (B, ...), are kept."""

    def __init__(self, geometry: type[Geometry], radius: float, origin: Tensor) -> None:
        self.geometry, self.radius, self.origin = geometry, radius, origin

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The originals, (B, ...)."""
        return (self.origin,)

    def put(self, at: slice | Tensor, originals: Tensor) -> None:
        """Set the originals of the rows ``at`` to ``originals`` (n, ...)."""
        self.origin[at] = originals

    def __getitem__(self, rows: slice) -> FeasibleBall:
        """Return the balls of ``rows``."""
        return FeasibleBall(self.geometry, self.radius, self.origin[rows])

    def ascend(self, points: Tensor, gradient: Tensor, length: float | Tensor, *, out: Tensor) -> Tensor:
        """Return ``out`` = points + the steepest step, (B, ...)."""
        return torch.add(points, self.geometry.step(gradient, points, per_sample(length, gradient)), out=out)

    def project_(self, points: Tensor) -> Tensor:
        """Project ``points`` (B, ...) onto the ball and into [0, 1]."""
        return self.geometry.project(points, self.origin, self.radius, out=points)
