"""ResNet-18, 34 and 50 for small images, as mdistiller has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import BasicBlock, global_average, he_normal_convolutions_, projection, stage

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each of the four stages, by depth."""


class _Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, each followed by batch normalisation, beside a shortcut."""

    def __init__(self, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        inner = planes // 4
        self.conv1 = nn.Conv2d(in_planes, inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, planes, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.shortcut = projection(in_planes, planes, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out)) + self.shortcut(x)
        return F.relu(out, inplace=True)


class KDResNet(Classifier):
    """ResNet-18, 34 or 50 for small images (arXiv 1512.03385): 3x3 stem of stride 1 and four stages.

    The 18-layer one has the parameters of ``resnet18`` and starts He-normal.

    Args:
        depth: 18, 34 or 50.
        num_classes, input_shape, mean, std: see :class:`Classifier`.
    """

    foldable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        depth: int,
        num_classes: int,
        input_shape: Shape = (3, 32, 32),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        blocks = _BLOCKS[depth]
        widen, block = (4, _Bottleneck) if depth == 50 else (1, BasicBlock)
        self.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(block, 64, 64 * widen, stride=1, blocks=blocks[0])
        self.layer2 = stage(block, 64 * widen, 128 * widen, stride=2, blocks=blocks[1])
        self.layer3 = stage(block, 128 * widen, 256 * widen, stride=2, blocks=blocks[2])
        self.layer4 = stage(block, 256 * widen, 512 * widen, stride=2, blocks=blocks[3])
        self.linear = nn.Linear(512 * widen, num_classes)
        he_normal_convolutions_(self)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        logits: Tensor = self.linear(global_average(features))
        return logits


@MODELS.register("kd-resnetD", pattern=r"kd-resnet(?P<depth>18|34|50)")
def kd_resnet(
    *,
    depth: str,
    num_classes: int,
    input_shape: Shape = (3, 32, 32),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """ResNet of depth D (18, 34 or 50) for small images, as mdistiller has it (arXiv 1512.03385)."""
    return KDResNet(depth=int(depth), num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
