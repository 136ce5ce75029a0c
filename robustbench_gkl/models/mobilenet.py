"""MobileNetV1 for ImageNet and MobileNetV2 of half the width for small images, as mdistiller has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import global_average, normal_start_

_SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Of each depthwise separable convolution of MobileNetV1: the planes and the stride."""
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Of each stage of MobileNetV2: the expansion, the planes at full width, the blocks and the stride of the first."""


def _convolution(
    in_planes: int, planes: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
) -> list[nn.Module]:
    """Return a convolution with batch normalisation, and ReLU where it is ``active``."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_planes, planes, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(planes),
    ]
    return [*layers, nn.ReLU(inplace=True)] if active else layers


@MODELS.register("mobilenetv1")
class MobileNetV1(Classifier):
    """MobileNetV1 (arXiv 1704.04861) for ImageNet, under the parameter names of mdistiller."""

    foldable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_classes: int,
        input_shape: Shape = (3, 224, 224),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        inner = 32
        self.model = nn.Sequential(nn.Sequential(*_convolution(input_shape[0], inner, kernel=3, stride=2)))
        for planes, stride in _SEPARABLE:
            depthwise = _convolution(inner, inner, kernel=3, stride=stride, groups=inner)
            self.model.append(nn.Sequential(*depthwise, *_convolution(inner, planes)))
            inner = planes
        self.fc = nn.Linear(inner, num_classes)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.fc(global_average(self.model(images)))
        return logits


class _InvertedResidual(nn.Module):
    """Expand, convolve each plane by itself, contract; the input is added where it has the size of the output."""

    def __init__(self, in_planes: int, planes: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and in_planes == planes
        inner = in_planes * expansion
        self.conv = nn.Sequential(
            *_convolution(in_planes, inner),
            *_convolution(inner, inner, kernel=3, stride=stride, groups=inner),
            *_convolution(inner, planes, active=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


@MODELS.register("mobilenetv2")
class MobileNetV2(Classifier):
    """MobileNetV2 of half the width (arXiv 1801.04381) for small images, under the parameter names of mdistiller."""

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
        planes = 16
        self.conv1 = nn.Sequential(*_convolution(input_shape[0], planes, kernel=3, stride=2))
        self.blocks = nn.Sequential()
        for expansion, full, blocks, stride in _STAGES:
            stage = nn.Sequential()
            for number in range(blocks):
                step = 1 if number else stride
                stage.append(_InvertedResidual(planes, full // 2, expansion=expansion, stride=step))
                planes = full // 2
            self.blocks.append(stage)
        self.conv2 = nn.Sequential(*_convolution(planes, 1280))
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))
        normal_start_(self)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = self.conv2(self.blocks(self.conv1(images)))
        logits: Tensor = self.classifier(global_average(features))
        return logits
