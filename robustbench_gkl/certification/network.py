"""A network as a graph of affine operations and ReLUs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robustbench_gkl.certification.operations import Operation, Relu

MARGIN = 1e-5
"""What a label's logit must exceed another's by to be proved larger, in the image's unit."""
_ERRORS = 10
"""How many times what float32 errs by at an image a margin must be."""


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


def units(network: Network, precise: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit (B,) of each image, and its logits (B, K) in float32.

    It is the largest logit and 1, and more where float32 errs by more than a tenth of :data:`MARGIN` of that.

    Args:
        network, precise: the same in float32 and in float64.
        images: (B, C, H, W) float32.
    """
    logits = network(images)
    error = (logits - precise(images.double())).abs().amax(1).to(logits.dtype)
    return torch.maximum(logits.abs().amax(1).clamp_min(1), _ERRORS / MARGIN * error), logits
