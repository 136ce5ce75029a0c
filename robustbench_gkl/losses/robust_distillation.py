"""Robust distillation: ARD (arXiv 1905.09747), RSLAD (arXiv 2108.07969) and AdaAD (CVPR 2023).

The published code of all three divides its KL divergences by the number of classes as well (the mean over all
entries); here, as in the papers, KL is the sum over the classes and the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Member, Temperature, kl_divergence
from robustbench_gkl.losses.kd import kd_divergence

Share = Annotated[float, Field(ge=0, le=1)]
"""An option that splits a weight of 1 between two terms."""


@LOSSES.register("ard")
class ARD(Loss):
    """alpha T^2 KL(t(x) || s(x')) + (1 - alpha) CE(s(x), y) (Goldblum et al., arXiv 1905.09747).

    The training attack maximises CE(s(x'), y), from a uniform start. The defaults are those of the published code,
    with which the labels only guide the attack.

    Args:
        alpha: share of the teacher's term, from 0 to 1.
        temperature: T, above 0; it divides both logits in KL.
    """

    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv", "teacher_clean")
    kinds: ClassVar[Mapping[str, Kind]] = {"ce": "clean", "robust": "robust"}

    def __init__(self, *, num_classes: int, alpha: Share = 1.0, temperature: Temperature = 30.0) -> None:
        super().__init__()
        self.alpha, self.temperature = alpha, temperature

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the term of the labels and that of the teacher."""
        taught = kd_divergence(logits.adv, logits.teacher_clean, temperature=self.temperature)
        return {
            "ce": (1 - self.alpha) * self.cross_entropy(logits.clean, labels),
            "robust": self.alpha * taught,
        }


@LOSSES.register("rslad")
class RSLAD(Loss):
    """5/6 KL(t(x) || s(x')) + 1/6 KL(t(x) || s(x)): the teacher's soft labels alone (Zi et al., arXiv 2108.07969).

    The training attack maximises KL(t(x) || s(x')), from a Gaussian start.

    Args:
        alpha: share of the adversarial term, from 0 to 1; the clean one has the rest.
    """

    inner_reads: ClassVar[tuple[Member, ...]] = ("adv", "teacher_clean")
    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv", "teacher_clean")
    kinds: ClassVar[Mapping[str, Kind]] = {"kd": "clean", "robust": "robust"}
    start: ClassVar[Literal["gaussian", "uniform"]] = "gaussian"

    def __init__(self, *, num_classes: int, alpha: Share = 5 / 6) -> None:
        super().__init__()
        self.alpha = alpha

    def inner(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return KL(t(x) || s(x')), (B,)."""
        return kl_divergence(logits.teacher_clean, logits.adv)

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the clean and the robust term."""
        return {
            "kd": (1 - self.alpha) * kl_divergence(logits.teacher_clean, logits.clean).mean(),
            "robust": self.alpha * kl_divergence(logits.teacher_clean, logits.adv).mean(),
        }


@LOSSES.register("adaad")
class AdaAD(Loss):
    """alpha KL(t(x') || s(x')) + (1 - alpha) KL(t(x) || s(x)) (Huang et al., CVPR 2023).

    The training attack maximises KL(t(x') || s(x')), from a Gaussian start: it asks the teacher at each of its
    points, and its gradient passes through the teacher too.

    Args:
        alpha: share of the adversarial term, from 0 to 1; the clean one has the rest. The published code has 1.
    """

    inner_reads: ClassVar[tuple[Member, ...]] = ("adv", "teacher_adv")
    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv", "teacher_clean", "teacher_adv")
    kinds: ClassVar[Mapping[str, Kind]] = {"kd": "clean", "robust": "robust"}
    start: ClassVar[Literal["gaussian", "uniform"]] = "gaussian"

    def __init__(self, *, num_classes: int, alpha: Share = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def inner(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return KL(t(x') || s(x')), (B,)."""
        return kl_divergence(logits.teacher_adv, logits.adv)

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the clean and the robust term."""
        return {
            "kd": (1 - self.alpha) * kl_divergence(logits.teacher_clean, logits.clean).mean(),
            "robust": self.alpha * kl_divergence(logits.teacher_adv, logits.adv).mean(),
        }
