"""Pre-activation ResNet-18 as it is used on CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import global_average, stage


class _Block(nn.Module):
    """Batch normalisation and ReLU before each of two 3x3 convolutions; the shortcut branches off in between."""

    def __init__(self, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        active = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv1(active)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return out + shortcut


@MODELS.register("preact-resnet18")
class PreActResNet18(Classifier):
    """Pre-activation ResNet-18 (arXiv 1603.05027) with batch normalisation before the last layer.

    That last ``bn`` is the variant of the checkpoints trained with generated data (arXiv 2302.04638).
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
        self.layer1 = stage(_Block, 64, 64, stride=1, blocks=2)
        self.layer2 = stage(_Block, 64, 128, stride=2, blocks=2)
        self.layer3 = stage(_Block, 128, 256, stride=2, blocks=2)
        self.layer4 = stage(_Block, 256, 512, stride=2, blocks=2)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, num_classes)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = self.conv1(images)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        features = F.relu(self.bn(features), inplace=True)
        logits: Tensor = self.linear(global_average(features))
        return logits
