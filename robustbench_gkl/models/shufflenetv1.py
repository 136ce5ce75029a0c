"""ShuffleNet of three groups for small images, as mdistiller has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import global_average, shuffled

_GROUPS = 3
_STEM = 24


class _Block(nn.Module):
    """A grouped 1x1, a plane-wise 3x3 and a grouped 1x1 convolution with a shuffle after the first.

    With stride 2 the averaged input is put beside the output, with stride 1 it is added. The first block of the
    network does not group its few input planes.
    """

    def __init__(self, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, 1 if in_planes == _STEM else _GROUPS
        out_planes = planes - in_planes if stride == 2 else planes
        inner = out_planes // 4
        self.conv1 = nn.Conv2d(in_planes, inner, kernel_size=1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_planes, kernel_size=1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(out_planes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride), rounded up, of ``x`` (B, in_planes, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = shuffled(out, groups=self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return F.relu(out + x, inplace=True)
        beside = F.avg_pool2d(x, kernel_size=3, stride=2, padding=1)
        return F.relu(torch.cat([out, beside], 1), inplace=True)


def _stage(blocks: int, in_planes: int, planes: int) -> nn.Sequential:
    stage = nn.Sequential(_Block(in_planes, planes, stride=2))
    for _ in range(blocks - 1):
        stage.append(_Block(planes, planes, stride=1))
    return stage


@MODELS.register("shufflenetv1")
class ShuffleNetV1(Classifier):
    """ShuffleNet of three groups (arXiv 1707.01083) for small images, under the parameter names of mdistiller."""

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
        self.conv1 = nn.Conv2d(input_shape[0], _STEM, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = _stage(4, _STEM, 240)
        self.layer2 = _stage(8, 240, 480)
        self.layer3 = _stage(4, 480, 960)
        self.linear = nn.Linear(960, num_classes)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for stage in (self.layer1, self.layer2, self.layer3):
            features = stage(features)
        logits: Tensor = self.linear(global_average(features))
        return logits
