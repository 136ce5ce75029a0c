"""What networks are made of: affine operations and ReLUs, on values, on intervals and, backwards, on rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_gkl.certification.rows import Rows

Shape = tuple[int, ...]
"""Of one image's values: (C, H, W) or (F,)."""


@dataclass(frozen=True)
class Interval:
    """Bounds (B, ...) of a layer's values."""

    low: Tensor
    high: Tensor

    @property
    def center(self) -> Tensor:
        """(B, ...)."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """(B, ...)."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Operation(ABC):
    """One step of a network.

    Attributes:
        inputs: which of the network's steps it takes its values from; those come before it.
        shape: of its values, one image's.
    """

    inputs: tuple[int, ...]
    shape: Shape

    @abstractmethod
    def __call__(self, *values: Tensor) -> Tensor:
        """Return the step's values (B, *shape)."""

    @abstractmethod
    def interval(self, *given: Interval) -> Interval:
        """Return bounds of the step's values within bounds of its inputs (interval arithmetic)."""

    def to(self, dtype: torch.dtype) -> Operation:
        """Return the step with its constants in ``dtype``."""
        moved = {key: value.to(dtype) for key, value in vars(self).items() if isinstance(value, Tensor)}
        return type(self)(**{**vars(self), **moved})


class Affine(Operation):
    """A step that is affine in each of its inputs."""

    @abstractmethod
    def back(self, rows: Rows) -> tuple[Rows, Tensor | float]:
        """Return the rows of the step's input and the constants (N,) that amount to ``rows`` of its values.

        With several inputs, the rows are those of each of them.
        """


@dataclass(frozen=True)
class Images(Operation):
    """The images that the network is given."""

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the images (B, C, H, W)."""
        return values[0]

    def interval(self, *given: Interval) -> Interval:
        """Return the bounds of the images."""
        return given[0]


@dataclass(frozen=True)
class Relu(Operation):
    """max(z, 0)."""

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the positive part (B, ...)."""
        return values[0].clamp_min(0)

    def interval(self, *given: Interval) -> Interval:
        """Return the bounds' positive parts."""
        return Interval(given[0].low.clamp_min(0), given[0].high.clamp_min(0))


@dataclass(frozen=True)
class Convolution(Affine):
    """A convolution with zero padding; average pooling is one with a group for each channel."""

    before: Shape
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def _apply(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(values, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the maps (B, C, H, W)."""
        return self._apply(values[0], self.weight, self.bias)

    def interval(self, *given: Interval) -> Interval:
        """Return the bounds by center and radius."""
        center, radius = self(given[0].center), self._apply(given[0].radius, self.weight.abs(), None)
        return Interval(center - radius, center + radius)

    def back(self, rows: Rows) -> tuple[Rows, Tensor | float]:
        """Return the transposed convolution of the rows, in windows where they are such."""
        constants = rows.values.sum((2, 3)) @ self.bias
        if rows.corner is None:
            lengths = [
                (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1
                for size, stride, pad, dilation, kernel in zip(
                    self.shape[1:], self.stride, self.padding, self.dilation, self.weight.shape[2:], strict=True
                )
            ]
            missing = [size - length for size, length in zip(self.before[1:], lengths, strict=True)]
            return Rows(self._transposed(rows.values, self.padding, missing)), constants
        steps = torch.tensor([self.stride, self.padding], device=rows.corner.device)
        windows = Rows(self._transposed(rows.values, (0, 0), (0, 0)), rows.corner * steps[0] - steps[1])
        return windows.inside(self.before), constants

    def _transposed(self, values: Tensor, padding: tuple[int, ...], missing: list[int] | tuple[int, ...]) -> Tensor:
        return F.conv_transpose2d(values, self.weight, None, self.stride, padding, missing, self.groups, self.dilation)


@dataclass(frozen=True)
class Linear(Affine):
    """A matrix product."""

    weight: Tensor
    bias: Tensor

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the features (B, F)."""
        return F.linear(values[0], self.weight, self.bias)

    def interval(self, *given: Interval) -> Interval:
        """Return the bounds by center and radius."""
        center, radius = self(given[0].center), F.linear(given[0].radius, self.weight.abs())
        return Interval(center - radius, center + radius)

    def back(self, rows: Rows) -> tuple[Rows, Tensor | float]:
        """Return the rows times the matrix."""
        return Rows(rows.values @ self.weight), rows.values @ self.bias


@dataclass(frozen=True)
class Scale(Affine):
    """A factor and a shift for each channel: normalisation, and batch normalisation in eval mode."""

    factor: Tensor
    shift: Tensor

    def _wide(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (len(self.shape) - 1))

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the scaled values (B, ...)."""
        return values[0] * self._wide(self.factor) + self._wide(self.shift)

    def interval(self, *given: Interval) -> Interval:
        """Return the bounds by center and radius."""
        center, radius = self(given[0].center), given[0].radius * self._wide(self.factor.abs())
        return Interval(center - radius, center + radius)

    def back(self, rows: Rows) -> tuple[Rows, Tensor | float]:
        """Return the scaled rows."""
        constants = rows.values.flatten(2).sum(2) if rows.values.dim() == 4 else rows.values
        return Rows(rows.values * self._wide(self.factor), rows.corner), constants @ self.shift


@dataclass(frozen=True)
class Reshape(Affine):
    """The same values in another shape, such as flattened."""

    before: Shape

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the values (B, *shape)."""
        return values[0].reshape(-1, *self.shape)

    def interval(self, *given: Interval) -> Interval:
        """Return the bounds reshaped."""
        return Interval(self(given[0].low), self(given[0].high))

    def back(self, rows: Rows) -> tuple[Rows, Tensor | float]:
        """Return the rows in the shape before."""
        if self.shape == self.before:
            return rows, 0.0
        return Rows(rows.whole(self.shape).values.reshape(-1, *self.before)), 0.0


@dataclass(frozen=True)
class Add(Affine):
    """The sum of two steps of the same shape."""

    def __call__(self, *values: Tensor) -> Tensor:
        """Return the sum (B, ...)."""
        return values[0] + values[1]

    def interval(self, *given: Interval) -> Interval:
        """Return the sums of the bounds."""
        return Interval(given[0].low + given[1].low, given[0].high + given[1].high)

    def back(self, rows: Rows) -> tuple[Rows, Tensor | float]:
        """Return the rows, which are those of both inputs."""
        return rows, 0.0
