"""Robust distillation with GKL (arXiv 2503.08038) in place of KL, after RSLAD and after AdaAD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Member, Temperature, Weight, kl_divergence
from robustbench_gkl.losses.class_prior import ClassPrior
from robustbench_gkl.losses.gkl import gkl_divergence
from robustbench_gkl.losses.robust_distillation import Share


class _RobustGKL(Loss):
    """share GKL at x' + (1 - share) GKL at x, with weights from the teacher's mean prediction of each class at x."""

    kinds: ClassVar[Mapping[str, Kind]] = {"kd": "clean", "robust": "robust"}
    start: ClassVar[Literal["gaussian", "uniform"]] = "gaussian"

    def __init__(
        self,
        *,
        num_classes: int,
        share: Share = 5 / 6,
        alpha: Weight = 1.0,
        beta: Weight = 1.0,
        gamma: Weight = 1.0,
        prior_temperature: Temperature = 4.0,
    ) -> None:
        super().__init__()
        self.share, self.alpha, self.beta, self.gamma = share, alpha, beta, gamma
        self.prior = ClassPrior(num_classes, temperature=prior_temperature)

    def divergence(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return GKL, a scalar, for logits (B, K) and labels (B,)."""
        weights = self.prior(labels, like=teacher)
        return gkl_divergence(student, teacher.detach(), weights, alpha=self.alpha, beta=self.beta, gamma=self.gamma)

    def teaches(self, logits: Logits) -> Tensor:
        """Return the teacher's logits (B, K) that the student is to have at x'."""
        raise NotImplementedError

    def inner(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return KL between the teacher and the student at x', (B,), as published for KL."""
        return kl_divergence(self.teaches(logits), logits.adv)

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the clean and the robust term."""
        return {
            "kd": (1 - self.share) * self.divergence(logits.clean, logits.teacher_clean, labels),
            "robust": self.share * self.divergence(logits.adv, self.teaches(logits), labels),
        }

    def observe(self, logits: Logits, labels: Tensor) -> None:
        """Add the teacher's predictions of the batch to the next epoch's prior."""
        self.prior.observe(logits.teacher_clean, labels)

    def end_epoch(self) -> None:
        """Make the epoch's means the prior."""
        self.prior.end_epoch()


@LOSSES.register("gkl-rd")
class GKLRD(_RobustGKL):
    """share GKL(s(x'), t(x)) + (1 - share) GKL(s(x), t(x)): RSLAD with GKL (arXiv 2503.08038, 2108.07969).

    The training attack is RSLAD's. No paper has this loss: RSLAD's share, and the parts of the decoupled KL at their
    own weights. The weight 5 that GKL has in adversarial training is too much here, where two networks' logits are far
    apart at first: a network without batch normalisation died in its first epoch.

    Args:
        share: of the adversarial term, from 0 to 1; the clean one has the rest.
        alpha, beta: weights of the soft cross-entropy and of the mean square error, at least 0.
        gamma: smoothing exponent of the class prior, at least 0.
        prior_temperature: T in the class prior, above 0.
    """

    inner_reads: ClassVar[tuple[Member, ...]] = ("adv", "teacher_clean")
    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv", "teacher_clean")

    def teaches(self, logits: Logits) -> Tensor:
        """Return t(x), (B, K)."""
        return logits.teacher_clean


@LOSSES.register("gkl-rd-adaptive")
class GKLRDAdaptive(_RobustGKL):
    """share GKL(s(x'), t(x')) + (1 - share) GKL(s(x), t(x)): AdaAD with GKL (arXiv 2503.08038, CVPR 2023).

    The training attack is AdaAD's. No paper has this loss; options and defaults are those of ``gkl-rd``.

    Args:
        share, alpha, beta, gamma, prior_temperature: see :class:`GKLRD`.
    """

    inner_reads: ClassVar[tuple[Member, ...]] = ("adv", "teacher_adv")
    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv", "teacher_clean", "teacher_adv")

    def teaches(self, logits: Logits) -> Tensor:
        """Return t(x'), (B, K)."""
        return logits.teacher_adv
