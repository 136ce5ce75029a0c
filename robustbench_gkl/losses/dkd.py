"""Decoupled knowledge distillation (Zhao et al., arXiv 2203.08679)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Member, Temperature, Weight, kl_divergence
from robustbench_gkl.losses.warmup import Epochs, WarmedUp


def dkd_divergence(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Return T^2 (alpha KL(b_t || b_s) + beta KL(r_t || r_s)), a scalar (batch mean).

    KL itself is KL(b_t || b_s) + (1 - p_y) KL(r_t || r_s) with the teacher's probability p_y of the label: DKD
    weighs its second part the same for all samples, however certain the teacher is.

    Args:
        student: (B, K), K at least 2, the side that is taught.
        teacher: (B, K); no gradient reaches it.
        labels: (B,) int64.
        alpha: weight of the target part, on b = (p_y, 1 - p_y) for p = softmax(logits / T).
        beta: weight of the rest, on r = softmax(logits / T) over the K - 1 other classes.
        temperature: T, above 0.
    """
    scaled_teacher, scaled_student = teacher.detach() / temperature, student / temperature
    others_teacher, others_student = _others(scaled_teacher, labels), _others(scaled_student, labels)
    target = kl_divergence(
        _label_against_rest(scaled_teacher, others_teacher, labels),
        _label_against_rest(scaled_student, others_student, labels),
    )
    rest = kl_divergence(others_teacher, others_student)
    return temperature**2 * (alpha * target.mean() + beta * rest.mean())


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (B, K - 1): the logits (B, K) of all classes but the label."""
    index = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, index + (index >= labels[:, None]).long())


def _label_against_rest(logits: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    """Return (B, 2): logits of the label and of all ``others`` (B, K - 1) together."""
    return torch.cat([logits.gather(1, labels[:, None]), others.logsumexp(1, keepdim=True)], 1)


@LOSSES.register("dkd")
class DKD(WarmedUp):
    """CE(s, y) + ramp DKD(s, t; y): the target class and the others weighed apart (Zhao et al., arXiv 2203.08679).

    The defaults are those of mdistiller.

    Args:
        ce_weight: weight of the labels' term, at least 0.
        alpha: weight of the target part, at least 0.
        beta: weight of the part of all other classes, at least 0.
        temperature: T, above 0.
        warmup: epochs over which the teacher's term grows linearly to its weight; 0 for none.
    """

    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "teacher_clean")
    kinds: ClassVar[Mapping[str, Kind]] = {"ce": "clean", "kd": "clean"}

    def __init__(
        self,
        *,
        num_classes: int,
        ce_weight: Weight = 1.0,
        alpha: Weight = 1.0,
        beta: Weight = 8.0,
        temperature: Temperature = 4.0,
        warmup: Epochs = 20,
    ) -> None:
        super().__init__(warmup=warmup)
        self.ce_weight, self.alpha, self.beta, self.temperature = ce_weight, alpha, beta, temperature

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the term of the labels and that of the teacher."""
        taught = dkd_divergence(
            logits.clean,
            logits.teacher_clean,
            labels,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
        return {"ce": self.ce_weight * self.cross_entropy(logits.clean, labels), "kd": self.ramp * taught}
