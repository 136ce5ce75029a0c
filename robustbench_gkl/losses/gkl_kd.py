"""Distillation with the family of GKL: DKL and IKL (arXiv 2305.13948), GKL (arXiv 2503.08038)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Member, Temperature, Weight
from robustbench_gkl.losses.class_prior import ClassPrior
from robustbench_gkl.losses.gkl import gkl_divergence, ikl_divergence, soft_cross_entropy
from robustbench_gkl.losses.warmup import Epochs, WarmedUp

Weights = Literal["class", "sample"]
"""Where the weights of the mean square error come from: the teacher's mean prediction of the sample's class in the
last epoch, or its prediction of the sample."""


class _Decoupled(WarmedUp):
    """ce_weight CE(s, y) + ramp D(s, t) with a divergence D of the family."""

    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "teacher_clean")
    kinds: ClassVar[Mapping[str, Kind]] = {"ce": "clean", "kd": "clean"}

    def __init__(self, *, ce_weight: float, warmup: int) -> None:
        super().__init__(warmup=warmup)
        self.ce_weight = ce_weight

    def divergence(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return D, a scalar, for logits (B, K) and labels (B,)."""
        raise NotImplementedError

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the term of the labels and that of the teacher."""
        return {
            "ce": self.ce_weight * self.cross_entropy(logits.clean, labels),
            "kd": self.ramp * self.divergence(logits.clean, logits.teacher_clean, labels),
        }


@LOSSES.register("dkl-kd")
class DKLKD(_Decoupled):
    """CE(s, y) + ramp alpha sCE(s / T, t / T): what the decoupled KL divergence leaves to a student.

    The mean square error of DKL has its gradient on the teacher's side (arXiv 2305.13948), and the teacher is frozen:
    only the soft cross-entropy teaches, with the gradient of KL. It has no factor T^2. The contrast to ``ikl-kd``.

    Args:
        ce_weight: weight of the labels' term, at least 0.
        alpha: weight of the soft cross-entropy, at least 0.
        temperature: T, above 0.
        warmup: epochs over which the teacher's term grows linearly to its weight; 0 for none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ce_weight: Weight = 1.0,
        alpha: Weight = 1.0,
        temperature: Temperature = 4.0,
        warmup: Epochs = 20,
    ) -> None:
        super().__init__(ce_weight=ce_weight, warmup=warmup)
        self.alpha, self.temperature = alpha, temperature

    def divergence(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return alpha sCE(s / T, t / T), a scalar."""
        return self.alpha * soft_cross_entropy(student, teacher, temperature=self.temperature).mean()


class _Weighted(_Decoupled):
    """A divergence with a mean square error that reaches the student."""

    def __init__(
        self,
        *,
        num_classes: int,
        ce_weight: Weight = 1.0,
        alpha: Weight = 1.0,
        beta: Weight = 16.0,
        weights: Weights = "class",
        temperature: Temperature = 4.0,
        prior_temperature: Temperature = 4.0,
        warmup: Epochs = 20,
    ) -> None:
        super().__init__(ce_weight=ce_weight, warmup=warmup)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.prior_temperature = prior_temperature
        self.prior = ClassPrior(num_classes, temperature=prior_temperature) if weights == "class" else None

    def weights(self, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return (B, K): prior[y], or softmax(t / T2) of each sample."""
        if self.prior is None:
            return F.softmax(teacher / self.prior_temperature, 1)
        rows: Tensor = self.prior(labels, like=teacher)
        return rows

    def observe(self, logits: Logits, labels: Tensor) -> None:
        """Add the teacher's predictions of the batch to the next epoch's prior."""
        if self.prior is not None:
            self.prior.observe(logits.teacher_clean, labels)

    def end_epoch(self) -> None:
        """Make the epoch's means the prior."""
        if self.prior is not None:
            self.prior.end_epoch()


@LOSSES.register("ikl-kd")
class IKLKD(_Weighted):
    """CE(s, y) + ramp IKL(s, t), weights as they are, normalised by the batch size (arXiv 2305.13948, NeurIPS 2024).

    Args:
        ce_weight: weight of the labels' term, at least 0.
        alpha, beta: weights of the soft cross-entropy (at T, without a factor T^2) and of the mean square error.
        weights: those of the mean square error: ``class`` for the teacher's mean prediction of each class in the last
            epoch, which starts uniform, or ``sample`` for its prediction of each sample.
        temperature: T, above 0.
        prior_temperature: T2, that of the predictions that make the weights, above 0.
        warmup: epochs over which the teacher's term grows linearly to its weight; 0 for none.
    """

    def divergence(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return IKL, a scalar."""
        weights = self.weights(teacher, labels)
        return ikl_divergence(student, teacher, weights, alpha=self.alpha, beta=self.beta, temperature=self.temperature)


@LOSSES.register("gkl-kd")
class GKLKD(_Weighted):
    """CE(s, y) + ramp GKL(s, t) with smoothed class-wise or sample-wise weights (arXiv 2503.08038).

    The defaults are those published for CIFAR-100, resnet32x4 to resnet8x4. The published code's own are ImageNet's:
    alpha, beta, gamma and both temperatures 1, warmup 5.

    Args:
        ce_weight: weight of the labels' term, at least 0.
        alpha, beta: weights of the soft cross-entropy (at T, without a factor T^2) and of the mean square error.
        gamma: smoothing exponent of the weights, at least 0; 1 leaves them, 0 makes them uniform.
        weights: those of the mean square error: ``class`` for the teacher's mean prediction of each class in the last
            epoch, which starts uniform, or ``sample`` for its prediction of each sample.
        temperature: T, above 0.
        prior_temperature: T2, that of the predictions that make the weights, above 0.
        warmup: epochs over which the teacher's term grows linearly to its weight; 0 for none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ce_weight: Weight = 1.0,
        alpha: Weight = 1.0,
        beta: Weight = 16.0,
        gamma: Weight = 0.05,
        weights: Weights = "class",
        temperature: Temperature = 4.0,
        prior_temperature: Temperature = 4.0,
        warmup: Epochs = 20,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            ce_weight=ce_weight,
            alpha=alpha,
            beta=beta,
            weights=weights,
            temperature=temperature,
            prior_temperature=prior_temperature,
            warmup=warmup,
        )
        self.gamma = gamma

    def divergence(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return GKL, a scalar."""
        weights = self.weights(teacher, labels)
        return gkl_divergence(
            student,
            teacher,
            weights,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
        )
