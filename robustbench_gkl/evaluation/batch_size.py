"""The batch size with the highest throughput, found by a short probe."""

from __future__ import annotations

import time
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import nn

from robustbench_gkl.evaluation.replay import noted_batch_size
from robustbench_gkl.results.journal import Journal

BatchSize: TypeAlias = Annotated[int, Field(ge=1)] | Literal["auto"]

_CANDIDATES = (16, 32, 64, 128, 256, 512, 1024, 2048)
_GAIN = 1.05
"""How much faster per image a larger batch must be to be chosen: smaller ones need less memory."""
_SECONDS = 0.3
"""Spent on each size, or one pass if that takes longer."""


def probe_batch_size(
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
            found = _seconds_per_image(model, torch.full((size, *shape), 0.5, device=device))
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


def _seconds_per_image(model: nn.Module, images: torch.Tensor) -> float:
    """Return the best time of a forward and backward pass, over the number of images."""
    best, ends = float("inf"), time.perf_counter() + _SECONDS
    for attempt in range(50):
        started = time.perf_counter()
        leaf = images.requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        ended = time.perf_counter()
        if attempt or ended > ends:  # the first pass warms up
            best = min(best, (ended - started) / len(images))
        if ended > ends:
            break
    return best
