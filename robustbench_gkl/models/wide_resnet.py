"""Wide ResNets with ReLU, as TRADES, AWP and GKL train them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import global_average, he_normal_


def wide_resnet_plan(*, depth: int, width: int) -> tuple[int, list[int]]:
    """Return the blocks in each of the three groups, and the planes of the stem and of the groups.

    Raises:
        UserError: ``depth`` is not 6n + 4 with n >= 1, or ``width`` is below 1.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        below = max(10, depth - rest)
        near = str(below) if depth <= 10 else f"{below} or {below + 6}"
        raise UserError(
            f"the depth of a wide ResNet is 6n + 4 with n at least 1 (10, 16, 22, 28, 34, ...), got {depth}; use {near}"
        )
    if width < 1:
        raise UserError(f"the width of a wide ResNet is at least 1, got {width}; 10 is the usual one")
    return blocks, [16, 16 * width, 32 * width, 64 * width]


class _Block(nn.Module):
    """Two pre-activated 3x3 convolutions; where the planes change, a 1x1 convolution on the activated input."""

    def __init__(self, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if in_planes != planes:
            self.convShortcut = nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        active = F.relu(self.bn1(x), inplace=True)
        out: Tensor = self.conv1(active)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class _Group(nn.Module):
    """Blocks in a row, the first of which changes planes and size."""

    def __init__(self, blocks: int, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(_Block(in_planes, planes, stride=stride))
        for _ in range(blocks - 1):
            self.layer.append(_Block(planes, planes, stride=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(Classifier):
    """Wide ResNet (arXiv 1605.07146) without dropout, under the parameter names of TRADES' code.

    Args:
        depth: 6n + 4, such as 28 or 34.
        width: factor on the planes, such as 10.
        num_classes, input_shape, mean, std: see :class:`Classifier`.

    Raises:
        UserError: a depth or width that no wide ResNet has.
    """

    # TRADES' code builds this group and never calls it.
    published_extras: ClassVar[tuple[str, ...]] = ("sub_block1.",)

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
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        blocks, planes = wide_resnet_plan(depth=depth, width=width)
        self.conv1 = nn.Conv2d(input_shape[0], planes[0], kernel_size=3, padding=1, bias=False)
        self.block1 = _Group(blocks, planes[0], planes[1], stride=1)
        self.block2 = _Group(blocks, planes[1], planes[2], stride=2)
        self.block3 = _Group(blocks, planes[2], planes[3], stride=2)
        self.bn1 = nn.BatchNorm2d(planes[3])
        self.fc = nn.Linear(planes[3], num_classes)
        he_normal_(self)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = self.conv1(images)
        for group in (self.block1, self.block2, self.block3):
            features = group(features)
        features = F.relu(self.bn1(features), inplace=True)
        logits: Tensor = self.fc(global_average(features))
        return logits


@MODELS.register("kd-wrn-D-W", pattern=r"kd-wrn-(?P<depth>[0-9]+)-(?P<width>[0-9]+)")
@MODELS.register("wrn-D-W", pattern=r"wrn-(?P<depth>[0-9]+)-(?P<width>[0-9]+)")
def wide_resnet(
    *,
    depth: str,
    width: str,
    num_classes: int,
    input_shape: Shape = (3, 32, 32),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Wide ResNet of depth D (6n + 4) and width W with ReLU (arXiv 1605.07146); kd-wrn-D-W is mdistiller's name."""
    return WideResNet(
        depth=int(depth),
        width=int(width),
        num_classes=num_classes,
        input_shape=input_shape,
        mean=mean,
        std=std,
    )
