"""Wide ResNets with SiLU ("swish"), as they are trained with generated data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import global_average, he_normal_
from robustbench_gkl.models.wide_resnet import wide_resnet_plan

CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
"""Mean and standard deviation of CIFAR-10's training images, as the published checkpoints use them."""
CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
"""The same of CIFAR-100."""

# The published networks average their statistics ten times slower than torch's default.
_MOMENTUM = 0.01


def _pad_same(x: Tensor, *, stride: int) -> Tensor:
    """Pad ``x`` (B, C, H, W) so that a 3x3 convolution gives ceil(side / stride), like TensorFlow's "SAME".

    With stride 2 an even side gets its one row of zeros at the end, where torch's padding would put it first.
    """
    height, width = x.shape[2:]
    top, left = (1 if stride == 1 else side % 2 for side in (height, width))
    return F.pad(x, (left, 1, top, 1))


class _Block(nn.Module):
    """Two pre-activated 3x3 convolutions; where the planes change, a 1x1 convolution on the activated input."""

    def __init__(self, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(in_planes, momentum=_MOMENTUM)
        self.conv_0 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(planes, momentum=_MOMENTUM)
        self.conv_1 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_planes != planes:
            self.shortcut = nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        active = F.silu(self.batchnorm_0(x))
        out: Tensor = self.conv_0(_pad_same(active, stride=self.stride))
        out = self.conv_1(F.silu(self.batchnorm_1(out)))
        return out + (x if self.shortcut is None else self.shortcut(active))


class _Group(nn.Module):
    """Blocks in a row, the first of which changes planes and size."""

    def __init__(self, blocks: int, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(_Block(in_planes, planes, stride=stride))
        for _ in range(blocks - 1):
            self.block.append(_Block(planes, planes, stride=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        out: Tensor = self.block(x)
        return out


class WideResNetSwish(Classifier):
    """Wide ResNet with SiLU and TensorFlow's padding (arXiv 2010.03593), under DeepMind's parameter names.

    The published checkpoints normalise inside without saying so in their state dict. Without ``mean`` and
    ``std`` this class does the same for three-channel images: CIFAR-100's constants with 100 classes, else
    CIFAR-10's. Give ``mean=(0.,), std=(1.,)`` for none at all.

    Args:
        depth: 6n + 4, such as 28 or 70.
        width: factor on the planes, such as 10.
        num_classes, input_shape, mean, std: see :class:`Classifier`.

    Raises:
        UserError: a depth or width that no wide ResNet has.
    """

    foldable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        num_classes: int,
        input_shape: Shape = (3, 32, 32),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if mean is None and std is None and input_shape[0] == 3:
            mean, std = CIFAR100_STATISTICS if num_classes == 100 else CIFAR10_STATISTICS
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        blocks, planes = wide_resnet_plan(depth=depth, width=width)
        self.init_conv = nn.Conv2d(input_shape[0], planes[0], kernel_size=3, padding=1, bias=False)
        self.layer = nn.Sequential(
            _Group(blocks, planes[0], planes[1], stride=1),
            _Group(blocks, planes[1], planes[2], stride=2),
            _Group(blocks, planes[2], planes[3], stride=2),
        )
        self.batchnorm = nn.BatchNorm2d(planes[3], momentum=_MOMENTUM)
        self.logits = nn.Linear(planes[3], num_classes)
        he_normal_(self)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = self.layer(self.init_conv(images))
        features = F.silu(self.batchnorm(features))
        logits: Tensor = self.logits(global_average(features))
        return logits


@MODELS.register("wrn-D-W-swish", pattern=r"wrn-(?P<depth>[0-9]+)-(?P<width>[0-9]+)-swish")
def wide_resnet_swish(
    *,
    depth: str,
    width: str,
    num_classes: int,
    input_shape: Shape = (3, 32, 32),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Wide ResNet of depth D (6n + 4) and width W with SiLU (arXiv 2010.03593), such as wrn-28-10-swish."""
    return WideResNetSwish(
        depth=int(depth),
        width=int(width),
        num_classes=num_classes,
        input_shape=input_shape,
        mean=mean,
        std=std,
    )
