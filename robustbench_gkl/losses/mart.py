"""MART (Wang et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Weight, kl_divergence


@LOSSES.register("mart")
class MART(Loss):
    """Boosted cross-entropy and a KL term weighted by misclassification (Wang et al., ICLR 2020, rklOg6EFwS).

    Args:
        beta: weight of the KL term (lambda in the paper).
    """

    kinds: ClassVar[Mapping[str, Kind]] = {"robust": "robust", "kl": "robust"}
    start: ClassVar[Literal["gaussian", "uniform"]] = "gaussian"

    def __init__(self, *, num_classes: int, beta: Weight = 5.0) -> None:
        super().__init__()
        self.beta = beta

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return BCE(a, y) = -log p_y(a) - log(1 - max_{k != y} p_k(a)), and beta KL(z || a) (1 - p_y(z))."""
        true = F.one_hot(labels, logits.adv.shape[1]).bool()
        # log(1 - p_k) as a log-sum-exp over the other classes, which stays finite when p_k is close to 1.
        log_probs = F.log_softmax(logits.adv, 1)
        runner_up = log_probs.masked_fill(true, -torch.inf).argmax(1, keepdim=True)
        not_runner_up = log_probs.scatter(1, runner_up, -torch.inf).logsumexp(1)
        boosted = self.cross_entropy(logits.adv, labels) - not_runner_up.mean()
        missed = 1 - F.softmax(logits.clean, 1).gather(1, labels[:, None]).squeeze(1)
        return {
            "robust": boosted,
            "kl": self.beta * (kl_divergence(logits.clean, logits.adv) * missed).mean(),
        }
