"""The thin ResNets that the ResNet paper trains on CIFAR: shortcuts without parameters ("option A")."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import BasicBlock, global_average, stage


def thin_resnet_blocks(depth: int) -> int:
    """Return the blocks in each of the three stages of a thin ResNet.

    Raises:
        UserError: ``depth`` is not 6n + 2 with n at least 1.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        below = max(8, depth - rest)
        near = str(below) if depth <= 8 else f"{below} or {below + 6}"
        raise UserError(
            f"the depth of a thin ResNet is 6n + 2 with n at least 1 (8, 14, 20, 32, ...), got {depth}; use {near}"
        )
    return blocks


class _Padding(nn.Module):
    """A shortcut that leaves out every other row and column, and adds as many channels of zeros before as after."""

    def __init__(self, in_planes: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.stride, self.channels = stride, (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, planes, H / stride, W / stride), rounded up, of ``x`` (B, in_planes, H, W)."""
        if not self.channels:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.channels, self.channels))


class CIFARResNet(Classifier):
    """Thin ResNet with option-A shortcuts (arXiv 1512.03385, section 4.2), under the names of the usual checkpoints.

    Args:
        depth: 6n + 2, such as 20 or 56.
        num_classes, input_shape, mean, std: see :class:`Classifier`.

    Raises:
        UserError: a depth that no thin ResNet has.
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
        blocks, block = thin_resnet_blocks(depth), partial(BasicBlock, shortcut=_Padding)
        self.conv1 = nn.Conv2d(input_shape[0], 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(block, 16, 16, stride=1, blocks=blocks)
        self.layer2 = stage(block, 16, 32, stride=2, blocks=blocks)
        self.layer3 = stage(block, 32, 64, stride=2, blocks=blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for layer in (self.layer1, self.layer2, self.layer3):
            features = layer(features)
        logits: Tensor = self.linear(global_average(features))
        return logits


@MODELS.register("cifar-resnetD", pattern=r"cifar-resnet(?P<depth>[0-9]+)")
def cifar_resnet(
    *,
    depth: str,
    num_classes: int,
    input_shape: Shape = (3, 32, 32),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Thin ResNet of depth D (6n + 2) with option-A shortcuts (arXiv 1512.03385), such as cifar-resnet20."""
    return CIFARResNet(depth=int(depth), num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
