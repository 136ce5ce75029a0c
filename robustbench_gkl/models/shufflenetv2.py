"""ShuffleNetV2 for small images, as mdistiller has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import global_average, shuffled


def _pointwise(in_planes: int, planes: int) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, kernel_size=1, bias=False)


def _planewise(planes: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, groups=planes, bias=False)


class _Block(nn.Module):
    """Half of the planes pass as they are, the others through three convolutions; then both are shuffled."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        half = planes // 2
        self.conv1 = _pointwise(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = _planewise(half, stride=1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _pointwise(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H, W) of ``x``, of the same shape."""
        kept, changed = x.chunk(2, 1)
        out = F.relu(self.bn1(self.conv1(changed)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = F.relu(self.bn3(self.conv3(out)), inplace=True)
        return shuffled(torch.cat([kept, out], 1), groups=2)


class _Halving(nn.Module):
    """Two branches that halve the images, each with half of the planes to come, shuffled."""

    def __init__(self, in_planes: int, planes: int) -> None:
        super().__init__()
        half = planes // 2
        self.conv1 = _planewise(in_planes, stride=2)
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv2 = _pointwise(in_planes, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _pointwise(in_planes, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = _planewise(half, stride=2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = _pointwise(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / 2, W / 2), rounded up, of ``x`` (B, in_planes, H, W)."""
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)), inplace=True)
        return shuffled(torch.cat([left, right], 1), groups=2)


def _stage(blocks: int, in_planes: int, planes: int) -> nn.Sequential:
    """Return the block that halves the images, and ``blocks`` more."""
    return nn.Sequential(_Halving(in_planes, planes), *(_Block(planes) for _ in range(blocks)))


@MODELS.register("shufflenetv2")
class ShuffleNetV2(Classifier):
    """ShuffleNetV2 of width 1 (arXiv 1807.11164) for small images, under the parameter names of mdistiller."""

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
        self.conv1 = _pointwise(input_shape[0], 24)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = _stage(3, 24, 116)
        self.layer2 = _stage(7, 116, 232)
        self.layer3 = _stage(3, 232, 464)
        self.conv2 = _pointwise(464, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for stage in (self.layer1, self.layer2, self.layer3):
            features = stage(features)
        features = F.relu(self.bn2(self.conv2(features)), inplace=True)
        logits: Tensor = self.linear(global_average(features))
        return logits
