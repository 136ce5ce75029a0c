"""Adversarial training of Madry et al. (arXiv 1706.06083)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Loss


@LOSSES.register("pgd-at")
class PGDAT(Loss):
    """Cross-entropy on adversarial images (Madry et al., arXiv 1706.06083)."""

    outer_needs_clean: ClassVar[bool] = False

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()

    def terms(self, adv_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return CE(a, y); ``clean_logits`` are not read."""
        return {"robust": self.cross_entropy(adv_logits, labels)}
