"""One batch shared by several processes: the logits of all of it on each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustbench_gkl.losses import Logits
from robustbench_gkl.ranks.collectives import World, sum_over_ranks


def whole_batch(logits: Logits, *, views: int, size: int, world: World) -> Logits:
    """Return the logits (V B, K) of the whole batch for those of this rank's samples.

    Every rank then computes the same loss of all logits. The gradient that comes back to a rank is that of its own, so
    that the gradients of the weights, summed over the ranks, are the whole batch's.

    Args:
        logits: each (V b, K), of the samples ``world.rows``, one view after the other; an empty one stays as it is.
        views: V.
        size: B.
        world: the processes that share the batch.
    """
    members = logits.present()
    parts = {name: part for name, part in members.items() if part.numel()}
    if world.size == 1 or not parts:
        return logits
    wholes = _WholeBatch.apply(size, world, *(part.reshape(views, -1, part.shape[1]) for part in parts.values()))
    return Logits(**members | {name: whole.flatten(0, 1) for name, whole in zip(parts, wholes, strict=True)})


class _WholeBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: int, world: World, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.rows = world.rows
        wholes = tuple(part.new_zeros(part.shape[0], size, part.shape[2]) for part in parts)
        for whole, part in zip(wholes, parts, strict=True):
            whole[:, world.rows] = part
        sum_over_ranks(wholes, world)
        return wholes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(gradient[:, ctx.rows] for gradient in gradients)
