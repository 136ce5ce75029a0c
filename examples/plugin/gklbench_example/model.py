"""A small network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier


@MODELS.register("example-mlp")
class Perceptron(Classifier):
    """Two linear layers, for images of any size.

    Args:
        num_classes: K.
        input_shape: (channels, height, width).
        mean, std: normalisation constants, applied inside the model.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(input_shape), 32), nn.ReLU(), nn.Linear(32, num_classes)
        )

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.layers(images)
        return logits
