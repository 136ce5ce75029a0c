"""Small networks with every kind of layer that has bounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A pre-activation block with batch normalisation, a projection beside it, and average pooling before the last."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=1, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.second = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.short = nn.Conv2d(2, 3, 1, stride=2)
        self.third = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.last = nn.Linear(3, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, 1, H, W)."""
        features = torch.relu(self.norm(self.first((images - 0.4) / 0.3)))
        features = torch.relu(self.second(features)) + self.short(features)
        features = torch.relu(self.third(features)).mean((2, 3))
        logits: Tensor = self.last(features)
        return logits


def convolutional(classes: int) -> nn.Module:
    """Return two convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2, 3, 2, padding=1, dilation=2),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.LazyLinear(6),
        nn.ReLU(),
        nn.Linear(6, classes),
    )


def tiny_net(kind: str, seed: int, *, size: int = 5, classes: int = 3) -> nn.Module:
    """Return a network in eval mode with random weights, batch-norm statistics included, for images (B, 1, size, size).

    Args:
        kind: ``residual`` or ``convolutional``.
        seed: of the weights.
        size: of the images.
        classes: length of the logits.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Residual(classes) if kind == "residual" else convolutional(classes)
        net.train()(torch.rand(64, 1, size, size))  # batch-norm statistics, and the size of lazy layers
        for parameter in net.parameters():
            spread = 0.2 if parameter.dim() == 1 else (2 / parameter[0].numel()) ** 0.5
            parameter.requires_grad_(False).copy_(spread * torch.randn_like(parameter))
            parameter.add_(0.3 if parameter.dim() == 1 else 0.0)  # most batch-norm scales above 0, most neurons alive
    return net.eval()
