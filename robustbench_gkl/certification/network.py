"""A network as a graph of affine operations and ReLUs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robustbench_gkl.certification.operations import Operation, Relu


@dataclass(frozen=True)
class Network:
    """A network in one precision.

    Attributes:
        steps: in the order in which they are computed: images first, logits last.
        exact: the same with their constants as they were read; None where these are they.
    """

    steps: tuple[Operation, ...]
    exact: tuple[Operation, ...] | None = None

    @cached_property
    def relus(self) -> tuple[int, ...]:
        """Which steps are ReLUs."""
        return tuple(number for number, step in enumerate(self.steps) if isinstance(step, Relu))

    @cached_property
    def beyond_first(self) -> int:
        """The number of hidden neurons beyond the first layer: those whose bounds take work."""
        deep: list[bool] = []
        for step in self.steps:
            deep.append(isinstance(step, Relu) or any(deep[source] for source in step.inputs))
        later = [self.steps[relu] for relu in self.relus if deep[self.steps[relu].inputs[0]]]
        return sum(torch.Size(step.shape).numel() for step in later)

    def to(self, dtype: torch.dtype) -> Network:
        """Return the same network in ``dtype``."""
        exact = self.exact or self.steps
        return Network(tuple(step.to(dtype) for step in exact), exact)

    def values(self, images: Tensor) -> list[Tensor]:
        """Return the values of all steps, (B, ...) each, for ``images`` (B, C, H, W)."""
        values = [images]
        for step in self.steps[1:]:
            values.append(step(*(values[source] for source in step.inputs)))
        return values

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of ``images`` (B, C, H, W)."""
        return self.values(images)[-1]
