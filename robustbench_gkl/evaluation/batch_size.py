"""The batch size with the highest throughput, found by timing a few."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_gkl.core.timing import time_calls
from robustbench_gkl.evaluation.replay import noted_batch_size
from robustbench_gkl.results.journal import Journal

BatchSize: TypeAlias = Annotated[int, Field(ge=1)] | Literal["auto"]

_CANDIDATES = (16, 32, 64, 128, 256, 512, 1024, 2048)
_GAIN = 1.05
"""How much faster per image a larger batch must be to be chosen: smaller ones need less memory."""
_SECONDS = 0.3
"""Spent on each size, or one pass if that takes longer."""


def fastest_batch_size(
    model: nn.Module,
    shape: tuple[int, int, int],
    *,
    device: torch.device,
    limit: int,
    journal: Journal | None = None,
) -> int:
    """Return the batch size at which gradients at the images cost least per image.

    Args:
        model: in eval mode.
        shape: (channels, height, width).
        device: where the model is.
        limit: the number of samples; larger batches are not tried.
        journal: remembers the choice, so that an evaluation goes on with the batch size that it began with.
    """
    if journal is not None and (noted := noted_batch_size(journal.own)) is not None:
        return noted
    best, cost = 0, float("inf")
    for size in sorted({min(candidate, limit) for candidate in _CANDIDATES}):
        try:
            images = torch.full((size, *shape), 0.5, device=device)
            found = min(time_calls(partial(_gradient, model, images), device, seconds=_SECONDS)) / size
        except torch.OutOfMemoryError:
            break
        if found * _GAIN < cost:
            best, cost = size, found
        elif found > 2 * cost:
            break
    best = best or 1
    if journal is not None:
        journal.append({"batch_size": best})
    return best


def _gradient(model: nn.Module, images: Tensor) -> None:
    """Compute the gradient at ``images`` (B, C, H, W)."""
    leaf = images.detach().requires_grad_()
    torch.autograd.grad(model(leaf).sum(), leaf)
