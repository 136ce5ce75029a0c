"""The outputs of a model on a few samples, for the checks before the attacks."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_gkl.evaluation.checks.finding import ROUNDING


class Answers:
    """A model and its outputs on a few samples, each computed once.

    Args:
        model: in eval mode; a callable that is no module has no modes to be checked.
        images: (B, C, H, W) float32 in [0, 1], on the model's device.
        labels: (B,) int64, there too.
        randomised: the attacks to come are those for randomised models.
        batch_size: images at a time.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, *, randomised: bool, batch_size: int) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.randomised, self.batch_size = randomised, batch_size
        self.logits = self.look(images)

    @torch.no_grad()
    def look(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) in float32."""
        return torch.cat([self.model(part).float() for part in images.split(self.batch_size)])  # type: ignore[no-untyped-call]

    @cached_property
    def scale(self) -> float:
        """The standard deviation of all logits, above zero."""
        return max(float(self.logits.std()), 1e-30)

    def apart(self, logits: Tensor, others: Tensor) -> Tensor:
        """Return (B,): the largest difference between two sets of logits (B, K), over their scale."""
        return (logits - others).abs().amax(1) / self.scale

    @cached_property
    def repeated(self) -> Tensor:
        """(B,): how far a second pass over the same batches is from the first."""
        return self.apart(self.look(self.images), self.logits)

    @property
    def random(self) -> bool:
        """Whether a second pass gave other logits."""
        return bool((self.repeated > ROUNDING).any())

    @cached_property
    def prediction(self) -> NDArray[np.int64]:
        """The predicted classes (B,)."""
        return self.logits.argmax(1).cpu().numpy()

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(B,): which samples are classified correctly."""
        right: NDArray[np.bool_] = self.prediction == self.labels.cpu().numpy()
        return right
