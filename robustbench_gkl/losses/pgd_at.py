"""Adversarial training of Madry et al. (arXiv 1706.06083)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Member


@LOSSES.register("pgd-at")
class PGDAT(Loss):
    """Cross-entropy on adversarial images (Madry et al., arXiv 1706.06083)."""

    outer_reads: ClassVar[tuple[Member, ...]] = ("adv",)
    kinds: ClassVar[Mapping[str, Kind]] = {"robust": "robust"}

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return CE(a, y)."""
        return {"robust": self.cross_entropy(logits.adv, labels)}
