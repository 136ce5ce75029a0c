"""ResNet-18 as it is used on CIFAR: a 3x3 stem and no max-pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import BasicBlock, global_average, stage


@MODELS.register("resnet18")
class ResNet18(Classifier):
    """ResNet-18 for small images (arXiv 1512.03385): 3x3 stem of stride 1, four stages of two blocks.

    Parameter names are those of the CIFAR port that most checkpoints use (``layer1.0.conv1``, ``linear``).
    """

    foldable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: Shape = (3, 32, 32),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        self.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(BasicBlock, 64, 64, stride=1, blocks=2)
        self.layer2 = stage(BasicBlock, 64, 128, stride=2, blocks=2)
        self.layer3 = stage(BasicBlock, 128, 256, stride=2, blocks=2)
        self.layer4 = stage(BasicBlock, 256, 512, stride=2, blocks=2)
        self.linear = nn.Linear(512, num_classes)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        logits: Tensor = self.linear(global_average(features))
        return logits
