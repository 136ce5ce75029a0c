"""Batch normalisation over the parts of a batch that several processes hold.

Like torch's SyncBatchNorm, but for gloo on CPUs as well as NCCL. The whole batch's statistics are put together from
each rank's mean and sum of squared deviations (Chan, Golub and LeVeque, The American Statistician 1983), which loses no
digits where the mean is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.ranks.collectives import World, sum_over_ranks

_OVER = (0, 2, 3)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training mode sees the images of all ranks; made by :func:`synchronize`."""

    world: World
    over_ranks: ClassVar[Callable[[SyncBatchNorm2d, Tensor], Tensor]]
    """The exchange, as torch.compile leaves it alone; set by :func:`synchronize`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` (b, C, H, W), normalised; in training mode all ranks have to call this together."""
        return self.over_ranks(input) if self.training else super().forward(input)

    def _over_ranks(self, features: Tensor) -> Tensor:
        mean, variance, count = _statistics(features.detach(), self.world)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            newest = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), newest)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), newest)
        normalized: Tensor = _Normalize.apply(
            features, self.weight, self.bias, mean, variance, count, self.eps, self.world
        )
        return normalized


def synchronize(model: nn.Module, world: World) -> None:
    """Turn each batch normalisation of ``model`` into a synchronised one; parameters, buffers and names stay.

    Raises:
        UserError: a kind of batch normalisation that cannot be turned.
    """
    if not hasattr(SyncBatchNorm2d, "over_ranks"):  # not by a decorator: that imports the compiler for one rank too
        SyncBatchNorm2d.over_ranks = torch.compiler.disable(SyncBatchNorm2d._over_ranks)  # type: ignore[no-untyped-call]
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
            module.world = world  # type: ignore[assignment]
        elif isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm2d):
            raise UserError(
                f"sync_batchnorm knows BatchNorm2d, but the model's layer {name} is {type(module).__name__}; "
                f"set sync_batchnorm to false"
            )


def _statistics(features: Tensor, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and number () of the values of each channel over all ranks."""
    variance, mean = torch.var_mean(_accurate(features), dim=_OVER, correction=0)
    number = features.numel() // features.shape[1]
    table = mean.new_zeros(world.size, 3, len(mean))
    table[world.rank] = torch.stack([mean, number * variance, torch.full_like(mean, number)])
    sum_over_ranks([table], world)
    means, squares, numbers = table.unbind(1)
    count = numbers[:, 0].sum()
    mean = (numbers * means).sum(0) / count
    return mean, (squares + numbers * (means - mean).square()).sum(0) / count, count


def _accurate(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class _Normalize(torch.autograd.Function):
    """Scale and shift with the statistics of all ranks; the gradient flows through the statistics too."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        world: World,
    ) -> Tensor:
        ctx.save_for_backward(features, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.world = world
        return F.batch_norm(features, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, scale, count = ctx.saved_tensors
        gradient = _accurate(gradients[0])
        normalized = (_accurate(features) - _beside(mean)) * _beside(scale)
        own = torch.stack([gradient.sum(_OVER), (gradient * normalized).sum(_OVER)])
        total = own.clone()
        sum_over_ranks([total], ctx.world)
        shift, slope = total / count
        change = gradient - _beside(shift) - normalized * _beside(slope)
        change = change * _beside(scale if weight is None else scale * weight)
        # The gradients of all ranks are summed later, so that each gives its own part.
        affine = (None, None) if weight is None else (own[1].to(weight.dtype), own[0].to(weight.dtype))
        return change.to(features.dtype), *affine, None, None, None, None, None


def _beside(values: Tensor) -> Tensor:
    return values[:, None, None]
