"""The objectives of attacks: functions from logits (B, K) and classes (B,) to one value per sample, (B,).

Each is above its value on the decision boundary exactly where the sample is misclassified, but for ``cross_entropy``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_gkl.attacks.specs.objectives import ObjectiveName

Objective: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (B, K), labels (B,) and targets (B,) to what is maximised, (B,)."""

_TINY = 1e-12


def _pick(values: Tensor, classes: Tensor) -> Tensor:
    """Return the entry of each row of ``values`` (B, K) at its class (B,), (B,)."""
    return values.gather(1, classes[:, None]).squeeze(1)


def _without(values: Tensor, labels: Tensor) -> Tensor:
    """Return ``values`` (B, K) with minus infinity at each label (B,), (B, K)."""
    return values.scatter(1, labels[:, None], -torch.inf)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, (B,), in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max_{k != y} z_k - z_y, (B,): above zero where the sample is misclassified."""
    return _without(logits, labels).amax(1) - _pick(logits, labels)


def probability_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max_{k != y} p_k - p_y of the softmax probabilities p, (B,), in [-1, 1] (PMA, arXiv 2411.15210)."""
    return margin(logits.softmax(1), labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the difference of logits ratio, (B,), in [-1, 1] (arXiv 2003.01690, equation 6).

    It is the margin over z_(1) - z_(3), the distance from the largest to the third largest logit, so that neither
    shifts nor scalings of the logits change it. Needs three classes.
    """
    top = logits.topk(3).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return z_t - z_y, (B,)."""
    return _pick(logits, targets) - _pick(logits, labels)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio, (B,) (arXiv 2003.01690, equation 7). Needs four classes."""
    top = logits.topk(4).values
    return targeted_margin(logits, labels, targets) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


_OBJECTIVES: dict[ObjectiveName, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "margin": margin,
    "prob-margin": probability_margin,
    "dlr": dlr,
}


def objective_for(name: ObjectiveName, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the objective ``name`` of samples with ``labels`` (B,): from their points and logits to (B,)."""
    function = _OBJECTIVES[name]
    return lambda _, logits: function(logits, labels)


def untargeted(name: ObjectiveName, *, num_classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the objective ``name``, or the margin where the DLR loss lacks its third class.

    It maps logits (B, K) and labels (B,) to (B,).
    """
    return _OBJECTIVES["margin" if name == "dlr" and num_classes < 3 else name]


def targeted(*, num_classes: int) -> Objective:
    """Return the targeted DLR loss, or the targeted margin where that lacks its fourth class."""
    return targeted_margin if num_classes < 4 else targeted_dlr


def runners_up(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B, K - 1): the classes but the label by falling logit, given logits (B, K) and labels (B,)."""
    rest = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.argsort(rest, dim=1, descending=True, stable=True)[:, :-1]
