"""The thin ResNets of the distillation literature, under mdistiller's names; "x4" has four times the planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.cifar_resnet import thin_resnet_blocks
from robustbench_gkl.models.layers import global_average, he_normal_convolutions_, projection, stage


class _Block(nn.Module):
    """Two 3x3 convolutions, each followed by batch normalisation, beside a shortcut named ``downsample``."""

    def __init__(self, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = projection(in_planes, planes, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out)) + self.downsample(x)
        return F.relu(out, inplace=True)


class ThinResNet(Classifier):
    """Thin ResNet with projection shortcuts (arXiv 1512.03385), under the parameter names of mdistiller.

    Args:
        depth: 6n + 2, such as 20 or 56.
        planes: of the stem and of the three stages.
        num_classes, input_shape, mean, std: see :class:`Classifier`.

    Raises:
        UserError: a depth that no thin ResNet has.
    """

    foldable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        depth: int,
        planes: tuple[int, int, int, int],
        num_classes: int,
        input_shape: Shape = (3, 32, 32),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        blocks = thin_resnet_blocks(depth)
        self.conv1 = nn.Conv2d(input_shape[0], planes[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.layer1 = stage(_Block, planes[0], planes[1], stride=1, blocks=blocks)
        self.layer2 = stage(_Block, planes[1], planes[2], stride=2, blocks=blocks)
        self.layer3 = stage(_Block, planes[2], planes[3], stride=2, blocks=blocks)
        self.fc = nn.Linear(planes[3], num_classes)
        he_normal_convolutions_(self)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for layer in (self.layer1, self.layer2, self.layer3):
            features = layer(features)
        logits: Tensor = self.fc(global_average(features))
        return logits


@MODELS.register("resnetD", pattern=r"resnet(?P<depth>8|14|20|32|44|56|110)")
def thin_resnet(
    *,
    depth: str,
    num_classes: int,
    input_shape: Shape = (3, 32, 32),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Thin ResNet of depth D with projection shortcuts, as mdistiller has it: resnet8, 14, 20, 32, 44, 56 or 110."""
    return ThinResNet(
        depth=int(depth),
        planes=(16, 16, 32, 64),
        num_classes=num_classes,
        input_shape=input_shape,
        mean=mean,
        std=std,
    )


@MODELS.register("resnetDx4", pattern=r"resnet(?P<depth>8|32)x4")
def thin_resnet_x4(
    *,
    depth: str,
    num_classes: int,
    input_shape: Shape = (3, 32, 32),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Thin ResNet of depth D with four times the planes, as mdistiller has it: resnet8x4 or resnet32x4."""
    return ThinResNet(
        depth=int(depth),
        planes=(32, 64, 128, 256),
        num_classes=num_classes,
        input_shape=input_shape,
        mean=mean,
        std=std,
    )
