"""Adversarial logit pairing."""

from __future__ import annotations

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Loss


@LOSSES.register("example-alp")
class LogitPairing(Loss):
    """Adversarial logit pairing (Kannan et al., arXiv 1803.06373).

    Args:
        num_classes: K.
        weight: of the pairing.
    """

    def __init__(self, *, num_classes: int, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def terms(self, adv_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy of adversarial images, and the mean square between the logits (B, K) of both."""
        return {
            "robust": self.cross_entropy(adv_logits, labels),
            "pairing": self.weight * (adv_logits - clean_logits).square().mean(),
        }
