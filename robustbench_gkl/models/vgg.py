"""VGG with batch normalisation for small images, as mdistiller has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier
from robustbench_gkl.models.layers import global_average, normal_start_

_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks, by depth."""


def _block(convolutions: int, in_planes: int, planes: int) -> nn.Sequential:
    """Return 3x3 convolutions with batch normalisation, and ReLU between them; the last one's is the caller's."""
    block = nn.Sequential()
    for number in range(convolutions):
        if number:
            block.append(nn.ReLU(inplace=True))
        block.append(nn.Conv2d(planes if number else in_planes, planes, kernel_size=3, padding=1))
        block.append(nn.BatchNorm2d(planes))
    return block


class VGG(Classifier):
    """VGG with batch normalisation and one linear layer (arXiv 1409.1556), under the parameter names of mdistiller.

    Images are halved after each of the first three blocks, and after the fourth where they have 64 rows or more.

    Args:
        depth: 8, 11, 13, 16 or 19.
        num_classes, input_shape, mean, std: see :class:`Classifier`.

    Raises:
        UserError: images below 8x8 leave nothing after the third halving.
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
        channels, height, width = input_shape
        if min(height, width) < 8:
            raise UserError(f"vgg{depth} needs images of at least 8x8, got {height}x{width}; tiny-cnn takes any size")
        self._halvings = 4 if height >= 64 else 3
        counts = _CONVOLUTIONS[depth]
        self.block0 = _block(counts[0], channels, 64)
        self.block1 = _block(counts[1], 64, 128)
        self.block2 = _block(counts[2], 128, 256)
        self.block3 = _block(counts[3], 256, 512)
        self.block4 = _block(counts[4], 512, 512)
        self.classifier = nn.Linear(512, num_classes)
        normal_start_(self)

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        features = images
        for number, block in enumerate((self.block0, self.block1, self.block2, self.block3, self.block4)):
            features = F.relu(block(features), inplace=True)
            if number < self._halvings:
                features = F.max_pool2d(features, kernel_size=2)
        logits: Tensor = self.classifier(global_average(features))
        return logits


@MODELS.register("vggD", pattern=r"vgg(?P<depth>8|11|13|16|19)")
def vgg(
    *,
    depth: str,
    num_classes: int,
    input_shape: Shape = (3, 32, 32),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """VGG of depth D (8, 11, 13, 16 or 19) with batch normalisation (arXiv 1409.1556), as mdistiller has it."""
    return VGG(depth=int(depth), num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
