"""TRADES (arXiv 1901.08573)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Member, Weight, kl_divergence


@LOSSES.register("trades")
class TRADES(Loss):
    """CE(z, y) + beta KL(softmax(z) || softmax(a)) (Zhang et al., arXiv 1901.08573).

    Args:
        beta: weight of the robust term (1 / lambda in the paper).
    """

    inner_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv")
    kinds: ClassVar[Mapping[str, Kind]] = {"ce": "clean", "robust": "robust"}
    start: ClassVar[Literal["gaussian", "uniform"]] = "gaussian"

    def __init__(self, *, num_classes: int, beta: Weight = 6.0) -> None:
        super().__init__()
        self.beta = beta

    def inner(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return KL(softmax(z) || softmax(a)), (B,)."""
        return kl_divergence(logits.clean, logits.adv)

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the clean and the robust term; the gradient flows into both logits of the latter."""
        return {
            "ce": self.cross_entropy(logits.clean, labels),
            "robust": self.beta * kl_divergence(logits.clean, logits.adv).mean(),
        }
