"""The MNIST network of TRADES."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier


def _remaining(side: int) -> int:
    """Return what two unpadded 3x3 convolutions and a halving, done twice, leave of ``side`` pixels."""
    for _ in range(2):
        side = (side - 4) // 2
    return side


@MODELS.register("small-cnn")
class SmallCNN(Classifier):
    """Four 3x3 convolutions and three linear layers with dropout: TRADES' MNIST net (arXiv 1901.08573).

    Starts as published: He-normal convolutions, and a last layer of zeros, so that a fresh network predicts
    the uniform distribution and passes no gradient to its input.

    Raises:
        UserError: images below 16x16 leave nothing after the convolutions.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: Shape = (1, 28, 28),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        channels, height, width = input_shape
        rows, columns = _remaining(height), _remaining(width)
        if min(rows, columns) < 1:
            raise UserError(f"small-cnn needs images of at least 16x16, got {height}x{width}; tiny-cnn takes any size")
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, kernel_size=3),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(32, 32, kernel_size=3),
                relu2=nn.ReLU(inplace=True),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, kernel_size=3),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(64, 64, kernel_size=3),
                relu4=nn.ReLU(inplace=True),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        last = nn.Linear(200, num_classes)
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(64 * rows * columns, 200),
                relu1=nn.ReLU(inplace=True),
                drop=nn.Dropout(0.5),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(inplace=True),
                fc3=last,
            )
        )
        for module in self.feature_extractor:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = self.feature_extractor(images)
        logits: Tensor = self.classifier(features.flatten(1))
        return logits
