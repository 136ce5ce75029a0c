"""Pieces that several architectures share."""

from __future__ import annotations

from torch import Tensor, nn


def global_average(features: Tensor) -> Tensor:
    """Return the mean (B, C) over the positions of ``features`` (B, C, H, W), whatever the image size."""
    return features.mean(dim=(2, 3))


def he_normal_(model: nn.Module) -> None:
    """Draw every convolution of ``model`` from N(0, 2 / (kernel area * output channels)), in place.

    Biases of linear layers become 0; everything else keeps torch's initialisation. This is how the published
    wide ResNets start (He et al., arXiv 1502.01852, with the fan-out).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
