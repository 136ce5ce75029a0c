"""One batch shared by several processes: the logits of all of it on each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustbench_gkl.ranks.collectives import World, sum_over_ranks


def whole_batch(logits: Tensor, *, views: int, size: int, world: World) -> Tensor:
    """Return the logits (V B, K) of the whole batch for those of this rank's samples.

    Every rank then computes the same loss of all logits. The gradient that comes back to a rank is that of its own, so
    that the gradients of the weights, summed over the ranks, are the whole batch's.

    Args:
        logits: (V b, K) of the samples ``world.rows``, one view after the other; an empty one is returned as it is.
        views: V.
        size: B.
        world: the processes that share the batch.
    """
    if world.size == 1 or logits.numel() == 0:
        return logits
    whole: Tensor = _WholeBatch.apply(logits.reshape(views, -1, logits.shape[1]), size, world)
    return whole.flatten(0, 1)


class _WholeBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, size: int, world: World) -> Tensor:
        ctx.rows = world.rows
        whole = part.new_zeros(part.shape[0], size, part.shape[2])
        whole[:, world.rows] = part
        sum_over_ranks([whole], world)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][:, ctx.rows], None, None
