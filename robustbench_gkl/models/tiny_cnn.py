"""The smoke-test model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier

_GRID = 4


@MODELS.register("tiny-cnn")
class TinyCNN(Classifier):
    """Two 3x3 convolutions and a linear layer, for images of any size; the smoke-test model.

    The features are averaged to a grid of at most 4x4, so the linear layer stays small. There is no batch
    normalisation: what the network computes is the same in training and in evaluation.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: Shape = (3, 32, 32),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        channels, *sides = input_shape
        # The second convolution halves a side, rounding up; windows of `cell` then cover it in at most 4 steps.
        halves = [-(-side // 2) for side in sides]
        self.cell = tuple(-(-half // _GRID) for half in halves)
        rows, columns = (-(-half // cell) for half, cell in zip(halves, self.cell, strict=True))
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1)
        self.linear = nn.Linear(32 * rows * columns, num_classes)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = F.relu(self.conv1(images))
        features = F.relu(self.conv2(features))
        # Not adaptive pooling: its gradient is not deterministic on CUDA.
        features = F.avg_pool2d(features, self.cell, ceil_mode=True)
        logits: Tensor = self.linear(features.flatten(1))
        return logits
