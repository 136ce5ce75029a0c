"""Cross-entropy on clean images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Member


@LOSSES.register("standard")
class Standard(Loss):
    """Cross-entropy on clean images: no adversary, the contrast to all others."""

    outer_reads: ClassVar[tuple[Member, ...]] = ("clean",)
    kinds: ClassVar[Mapping[str, Kind]] = {"ce": "clean"}

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return CE(z, y)."""
        return {"ce": self.cross_entropy(logits.clean, labels)}
