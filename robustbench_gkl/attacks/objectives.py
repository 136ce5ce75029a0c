"""What evaluation attacks maximise: functions from logits (B, K) and labels (B,) to one value per sample, (B,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ObjectiveName = Literal["ce", "margin"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, (B,), in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max_{k != y} z_k - z_y, (B,): above zero where the sample is misclassified."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - true


_OBJECTIVES: dict[ObjectiveName, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin}


def objective_for(name: ObjectiveName, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the objective ``name`` as a function of the logits of the samples that ``labels`` (B,) belong to."""
    function = _OBJECTIVES[name]
    return lambda logits: function(logits, labels)
