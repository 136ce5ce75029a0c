"""The class prior of IKL and GKL (arXiv 2305.13948): the mean prediction of each class over the last epoch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassPrior(nn.Module):
    """A row-stochastic matrix (K, K) whose row y is the mean of softmax(logits / T) over the samples of class y.

    It starts uniform, and each epoch's means replace it at the epoch's end. It is kept and summed in float64, whatever
    the precision of the logits: an epoch's sum in float32 would lose digits with each batch.

    Args:
        num_classes: K.
        temperature: T.
    """

    rows: Tensor
    observed: Tensor

    def __init__(self, num_classes: int, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        uniform = torch.full((num_classes, num_classes), 1 / num_classes, dtype=torch.float64)
        self.register_buffer("rows", uniform)
        self.register_buffer("observed", torch.zeros_like(uniform))

    def forward(self, labels: Tensor, *, like: Tensor) -> Tensor:
        """Return (B, K): the row of each label (B,), in the precision of ``like``."""
        return self.rows[labels].to(like.dtype)

    @torch.no_grad()
    def observe(self, logits: Tensor, labels: Tensor) -> None:
        """Add the softmax(z / T) of each sample's logits (B, K) to the row of its label (B,)."""
        probabilities = F.softmax(logits / self.temperature, 1)
        self.observed.index_add_(0, labels, probabilities.to(self.observed.dtype))

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Make the observed means the prior; a class that was not seen keeps its row."""
        total = self.observed.sum(1, keepdim=True)
        self.rows.copy_(torch.where(total > 0, self.observed / total.clamp_min(1e-12), self.rows))
        self.observed.zero_()


def read_former_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the buffers in the ``state`` of a loss that version 0.1 saved: its class prior was no module then.

    A hook for ``register_load_state_dict_pre_hook`` of a loss that keeps its :class:`ClassPrior` as ``prior``.
    """
    for former, name in (("prior", "prior.rows"), ("observed", "prior.observed")):
        if prefix + former in state:
            state[prefix + name] = state.pop(prefix + former)
