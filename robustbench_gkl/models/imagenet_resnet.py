"""ResNets and ResNeXts for ImageNet, as torchvision has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier, WrappedClassifier
from robustbench_gkl.models.layers import he_normal_convolutions_

_BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
"""Blocks in each of the four stages, by depth."""


class ImageNetResNet(WrappedClassifier):
    """A ResNet (arXiv 1512.03385) or ResNeXt (arXiv 1611.05431) of torchvision with fresh weights.

    Args:
        depth: 18, 34, 50, 101 or 152.
        groups, width: of the 3x3 convolutions of a ResNeXt; 1 and 64 for a ResNet.
        num_classes, input_shape, mean, std: see :class:`Classifier`.
    """

    foldable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        depth: int,
        groups: int = 1,
        width: int = 64,
        num_classes: int,
        input_shape: Shape = (3, 224, 224),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

        net = ResNet(
            Bottleneck if depth >= 50 else BasicBlock,
            _BLOCKS[depth],
            num_classes=num_classes,
            groups=groups,
            width_per_group=width,
        )
        net.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=7, stride=2, padding=3, bias=False)
        he_normal_convolutions_(net)
        super().__init__(net, num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)


@MODELS.register("imagenet-resnetD", pattern=r"imagenet-resnet(?P<depth>18|34|50|101|152)")
def imagenet_resnet(
    *,
    depth: str,
    num_classes: int,
    input_shape: Shape = (3, 224, 224),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """ResNet of depth D (18, 34, 50, 101 or 152) for ImageNet, as torchvision has it (arXiv 1512.03385)."""
    return ImageNetResNet(depth=int(depth), num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)


@MODELS.register("imagenet-resnext101-32x4d")
def imagenet_resnext(
    *,
    num_classes: int,
    input_shape: Shape = (3, 224, 224),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """ResNeXt-101 of 32 groups of width 4 for ImageNet (arXiv 1611.05431), under torchvision's parameter names."""
    return ImageNetResNet(
        depth=101, groups=32, width=4, num_classes=num_classes, input_shape=input_shape, mean=mean, std=std
    )
