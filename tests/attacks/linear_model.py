"""A linear classifier, whose shortest adversarial perturbations are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


class Linear(nn.Module):
    """Logits W x + b with a zero row for class 0, so that class k wins where W_k x + b_k is above zero."""

    def __init__(self, *, classes: int, shape: tuple[int, int, int], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        pixels = math.prod(shape)
        self.weight = nn.Parameter(torch.randn(classes, pixels, generator=generator))
        # Every boundary passes at some distance from the grey image.
        self.bias = nn.Parameter(-0.5 * self.weight.sum(1).detach() + torch.rand(classes, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = images.flatten(1) @ self.weight.T + self.bias
        return logits


def samples(count: int, shape: tuple[int, int, int], *, seed: int) -> Tensor:
    """Images around mid-grey, far from the borders of [0, 1]."""
    return 0.45 + 0.1 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def optimum(model: Linear, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """The distance (B,) to the nearest decision boundary, were there no borders of [0, 1]."""
    with torch.no_grad():
        logits = model(images).double()
        gaps = logits.gather(1, labels[:, None]) - logits
        slopes = model.weight.double()[labels][:, None] - model.weight.double()[None]
        lengths = torch.linalg.vector_norm(slopes, ord=DUAL[norm], dim=2)
        distances = gaps / lengths.clamp_min(1e-12)
        distances.scatter_(1, labels[:, None], math.inf)
    best: Tensor = distances.amin(1)
    return best
