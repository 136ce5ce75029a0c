"""Knowledge distillation: Hinton's (arXiv 1503.02531), and that of standardised logits (arXiv 2403.01427)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from robustbench_gkl.losses.base import (
    LOSSES,
    Kind,
    Logits,
    Loss,
    Member,
    Temperature,
    Weight,
    kl_divergence,
)


def standardise(logits: Tensor) -> Tensor:
    """Return the z-scores of each row of ``logits`` (B, K), over its standard deviation (of K - 1) plus 1e-7."""
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + 1e-7)


def kd_divergence(student: Tensor, teacher: Tensor, *, temperature: float, standardised: bool = False) -> Tensor:
    """Return T^2 KL(softmax(t / T) || softmax(s / T)), a scalar (batch mean), for logits (B, K).

    Args:
        student: (B, K), the side that is taught.
        teacher: (B, K); no gradient reaches it.
        temperature: T, above 0.
        standardised: whether both logits are replaced by their z-scores first (arXiv 2403.01427).
    """
    teacher = teacher.detach()
    if standardised:
        student, teacher = standardise(student), standardise(teacher)
    return temperature**2 * kl_divergence(teacher / temperature, student / temperature).mean()


class _Distilled(Loss):
    """ce_weight CE(s, y) + kd_weight T^2 KL(softmax(t / T) || softmax(s / T))."""

    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "teacher_clean")
    kinds: ClassVar[Mapping[str, Kind]] = {"ce": "clean", "kd": "clean"}
    standardised: ClassVar[bool] = False

    def __init__(self, *, ce_weight: float, kd_weight: float, temperature: float) -> None:
        super().__init__()
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the term of the labels and that of the teacher."""
        taught = kd_divergence(
            logits.clean, logits.teacher_clean, temperature=self.temperature, standardised=self.standardised
        )
        return {"ce": self.ce_weight * self.cross_entropy(logits.clean, labels), "kd": self.kd_weight * taught}


@LOSSES.register("kd")
class KD(_Distilled):
    """0.1 CE(s, y) + 0.9 T^2 KL(softmax(t / T) || softmax(s / T)) (Hinton et al., arXiv 1503.02531).

    The defaults are those of mdistiller.

    Args:
        ce_weight, kd_weight: weights of the two terms, at least 0.
        temperature: T, above 0.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ce_weight: Weight = 0.1,
        kd_weight: Weight = 0.9,
        temperature: Temperature = 4.0,
    ) -> None:
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, temperature=temperature)


@LOSSES.register("kd-standardised")
class KDStandardised(_Distilled):
    """Knowledge distillation of z-scored logits, 0.1 CE + 9 T^2 KL (Sun et al., arXiv 2403.01427).

    The labels' term sees the logits as they are. The defaults are those of the published code.

    Args:
        ce_weight, kd_weight: weights of the two terms, at least 0.
        temperature: T, above 0; it divides the z-scores.
    """

    standardised: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_classes: int,
        ce_weight: Weight = 0.1,
        kd_weight: Weight = 9.0,
        temperature: Temperature = 2.0,
    ) -> None:
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, temperature=temperature)
