"""Pieces that several architectures share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def global_average(features: Tensor) -> Tensor:
    """Return the mean (B, C) over the positions of ``features`` (B, C, H, W), whatever the image size."""
    return features.mean(dim=(2, 3))


def he_normal_(model: nn.Module) -> None:
    """Draw every convolution of ``model`` from N(0, 2 / (kernel area * output channels)), in place.

    Biases of linear layers become 0; everything else keeps torch's initialisation. This is how the published
    wide ResNets start (He et al., arXiv 1502.01852, with the fan-out).
    """
    he_normal_convolutions_(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def he_normal_convolutions_(model: nn.Module) -> None:
    """Draw every convolution as :func:`he_normal_` does, in place, and leave everything else as it is."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def normal_start_(model: nn.Module) -> None:
    """Start as mdistiller's plain networks do, in place.

    Every convolution is drawn from N(0, 2 / (kernel area * output channels)), whatever its groups, every linear layer
    from N(0, 0.01^2), and their biases are 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=math.sqrt(2 / (area * module.out_channels)))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def projection(in_planes: int, planes: int, *, stride: int) -> nn.Sequential:
    """Return a 1x1 convolution with batch normalisation, or nothing where the input has the size of the output."""
    if stride == 1 and in_planes == planes:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(planes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each followed by batch normalisation, beside a shortcut (arXiv 1512.03385).

    Args:
        in_planes, planes: before and after.
        stride: of the first convolution.
        shortcut: makes what brings the input to the size of the output, from the three above.
    """

    def __init__(
        self, in_planes: int, planes: int, *, stride: int, shortcut: Callable[..., nn.Module] = projection
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = shortcut(in_planes, planes, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (B, planes, H / stride, W / stride) of ``x`` (B, in_planes, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return F.relu(out, inplace=True)


def stage(block: Callable[..., nn.Module], in_planes: int, planes: int, *, stride: int, blocks: int) -> nn.Sequential:
    """Return ``blocks`` residual blocks, of which the first goes from ``in_planes`` to ``planes`` by ``stride``."""
    rest = (block(planes, planes, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_planes, planes, stride=stride), *rest)


def shuffled(features: Tensor, *, groups: int) -> Tensor:
    """Return ``features`` (B, C, H, W) with the channels of the groups interleaved (arXiv 1707.01083)."""
    return torch.unflatten(features, 1, (groups, -1)).transpose(1, 2).flatten(1, 2)
