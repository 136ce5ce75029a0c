"""Cross-entropy on clean images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Loss


@LOSSES.register("standard")
class Standard(Loss):
    """Cross-entropy on clean images: no adversary, the contrast to all others."""

    crafts: ClassVar[bool] = False

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()

    def terms(self, adv_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return CE(z, y); ``adv_logits`` are not read."""
        return {"ce": self.cross_entropy(clean_logits, labels)}
