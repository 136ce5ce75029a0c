"""Adversarial logit pairing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Member, Weight


@LOSSES.register("example-alp")
class LogitPairing(Loss):
    """Adversarial logit pairing (Kannan et al., arXiv 1803.06373).

    Args:
        num_classes: K.
        weight: of the pairing.
    """

    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv")
    kinds: ClassVar[Mapping[str, Kind]] = {"robust": "robust", "pairing": "robust"}

    def __init__(self, *, num_classes: int, weight: Weight = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy of adversarial images, and the mean square between the logits of both."""
        return {
            "robust": self.cross_entropy(logits.adv, labels),
            "pairing": self.weight * (logits.adv - logits.clean).square().mean(),
        }
