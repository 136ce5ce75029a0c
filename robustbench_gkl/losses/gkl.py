"""DKL, IKL (arXiv 2305.13948) and GKL (arXiv 2503.08038): what KL is made of, decoupled and repaired.

KL(softmax(z) || softmax(a)) has the gradients of a weighted mean square error on logit differences (on the side
of z) plus a cross-entropy with soft labels (on the side of a). The family keeps the two parts, weighs them apart,
lets the gradient of the first reach both sides, and takes its weights from the mean prediction of a sample's class.

The papers write the first part over all pairs of classes. With d = z - a, W = sum_j p_j and the weighted mean
m = sum_j p_j d_j / W it is

    1/4 sum_jk p_j p_k (d_j - d_k)^2 = 1/2 W sum_j p_j (d_j - m)^2,

which needs O(B K) time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from robustbench_gkl.losses.base import LOSSES, Kind, Logits, Loss, Member, Temperature, Weight
from robustbench_gkl.losses.class_prior import ClassPrior, read_former_names


def soft_cross_entropy(adv_logits: Tensor, clean_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return (B,): -sum_j softmax(z / T)_j log softmax(a / T)_j for logits (B, K); no gradient reaches z."""
    target = F.softmax(clean_logits.detach() / temperature, 1)
    return -(target * F.log_softmax(adv_logits / temperature, 1)).sum(1)


def weighted_mse(adv_logits: Tensor, clean_logits: Tensor, weights: Tensor) -> Tensor:
    """Return (B,): 1/4 sum_jk p_j p_k ((z_j - z_k) - (a_j - a_k))^2 for logits and weights p (B, K), in O(B K)."""
    difference = clean_logits - adv_logits
    total = weights.sum(1, keepdim=True)
    centred = difference - (weights * difference).sum(1, keepdim=True) / total
    return 0.5 * total.squeeze(1) * (weights * centred.square()).sum(1)


def dkl_divergence(adv_logits: Tensor, clean_logits: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Return the decoupled KL divergence, a scalar (batch mean); its gradients are KL's for alpha = beta = 1.

    The value differs from KL's: only the gradients with respect to both logits (B, K) agree (arXiv 2305.13948,
    theorem 1).
    """
    weights = F.softmax(clean_logits.detach(), 1)
    return (
        alpha * soft_cross_entropy(adv_logits, clean_logits).mean()
        + beta * weighted_mse(adv_logits.detach(), clean_logits, weights).mean()
    )


def ikl_divergence(
    adv_logits: Tensor,
    clean_logits: Tensor,
    class_weights: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float = 1.0,
) -> Tensor:
    """Return the improved KL divergence, a scalar (batch mean), for logits and class weights (B, K).

    Unlike GKL it is normalised by the batch size and the weights are not smoothed (arXiv 2305.13948).
    ``temperature`` divides both logits in the soft cross-entropy.
    """
    return (
        alpha * soft_cross_entropy(adv_logits, clean_logits, temperature=temperature).mean()
        + beta * weighted_mse(adv_logits, clean_logits, class_weights.detach()).mean()
    )


def gkl_divergence(
    adv_logits: Tensor,
    clean_logits: Tensor,
    class_weights: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Return the generalized KL divergence (arXiv 2503.08038), a scalar.

    For distillation hand over the student's logits first, the teacher's second and, for sample-wise weights,
    ``softmax(teacher / T)``.

    Args:
        adv_logits: (B, K), the side that is taught; it gets gradients from both parts.
        clean_logits: (B, K), the teaching side; it gets gradients from the weighted mean square error only.
        class_weights: (B, K), one row per sample, such as ``prior[labels]``; no gradient.
        alpha: weight of the soft cross-entropy (batch mean).
        beta: weight of the mean square error (normalised by the total weight of the batch).
        gamma: smoothing exponent of the weights; 1 leaves them, 0 makes them uniform.
        temperature: divides both logits in the soft cross-entropy.
    """
    weights = class_weights.detach() ** gamma
    mse = weighted_mse(adv_logits, clean_logits, weights).sum() / weights.sum(1).square().sum()
    return alpha * soft_cross_entropy(adv_logits, clean_logits, temperature=temperature).mean() + beta * mse


class _Decoupled(Loss):
    """CE(z, y) + a divergence of the family; the training attack maximises GKL with its own two weights."""

    inner_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv")
    kinds: ClassVar[Mapping[str, Kind]] = {"ce": "clean", "robust": "robust"}
    start: ClassVar[Literal["gaussian", "uniform"]] = "gaussian"

    def __init__(self, *, alpha: float, beta: float, inner_alpha: float, inner_beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.inner_alpha, self.inner_beta = inner_alpha, inner_beta

    def weights(self, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weights (B, K) of the classes in each sample's mean square error; their rows sum to 1.

        Shapes: ``clean_logits`` (B, K), ``labels`` (B,).
        """
        raise NotImplementedError

    def divergence(self, adv_logits: Tensor, clean_logits: Tensor, weights: Tensor) -> Tensor:
        """Return the scalar that is added to the cross-entropy, for logits and weights (B, K)."""
        raise NotImplementedError

    def inner(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return inner_alpha sCE + inner_beta wMSE, (B,); the smoothing of the weights is left out (gamma 1)."""
        value = self.inner_alpha * soft_cross_entropy(logits.adv, logits.clean)
        if self.inner_beta:
            weights = self.weights(logits.clean, labels)
            value = value + self.inner_beta * weighted_mse(logits.adv, logits.clean, weights)
        return value

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the clean and the robust term."""
        weights = self.weights(logits.clean, labels)
        return {
            "ce": self.cross_entropy(logits.clean, labels),
            "robust": self.divergence(logits.adv, logits.clean, weights),
        }


@LOSSES.register("dkl")
class DKL(_Decoupled):
    """CE(z, y) + the decoupled KL divergence: TRADES with its two halves weighed apart (arXiv 2305.13948).

    Args:
        alpha, beta: weights of the soft cross-entropy and of the mean square error.
        inner_alpha, inner_beta: the same in the training attack.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        alpha: Weight = 6.0,
        beta: Weight = 6.0,
        inner_alpha: Weight = 1.0,
        inner_beta: Weight = 0.0,
    ) -> None:
        super().__init__(alpha=alpha, beta=beta, inner_alpha=inner_alpha, inner_beta=inner_beta)

    def weights(self, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """Return softmax(z) (B, K), without a gradient."""
        return F.softmax(clean_logits.detach(), 1)

    def divergence(self, adv_logits: Tensor, clean_logits: Tensor, weights: Tensor) -> Tensor:
        """Return DKL, a scalar; ``weights`` are its own."""
        return dkl_divergence(adv_logits, clean_logits, alpha=self.alpha, beta=self.beta)


class _ClassWise(_Decoupled):
    """A divergence whose weights are the rows of a class prior, that of the clean logits of the last epoch."""

    def __init__(
        self,
        *,
        num_classes: int,
        alpha: float,
        beta: float,
        prior_temperature: float,
        inner_alpha: float,
        inner_beta: float,
    ) -> None:
        super().__init__(alpha=alpha, beta=beta, inner_alpha=inner_alpha, inner_beta=inner_beta)
        self.prior = ClassPrior(num_classes, temperature=prior_temperature)
        self.register_load_state_dict_pre_hook(read_former_names)  # type: ignore[no-untyped-call]

    def weights(self, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """Return prior[y], (B, K)."""
        rows: Tensor = self.prior(labels, like=clean_logits)
        return rows

    def observe(self, logits: Logits, labels: Tensor) -> None:
        """Add the batch to the next epoch's prior."""
        self.prior.observe(logits.clean, labels)

    def end_epoch(self) -> None:
        """Make the epoch's means the prior."""
        self.prior.end_epoch()


@LOSSES.register("ikl")
class IKL(_ClassWise):
    """CE(z, y) + the improved KL divergence, with class-wise weights (arXiv 2305.13948).

    Args:
        alpha, beta: weights of the soft cross-entropy and of the mean square error.
        prior_temperature: T in the class prior.
        inner_alpha, inner_beta: weights of the two parts in the training attack.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        alpha: Weight = 4.0,
        beta: Weight = 20.0,
        prior_temperature: Temperature = 4.0,
        inner_alpha: Weight = 1.0,
        inner_beta: Weight = 1.0,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            alpha=alpha,
            beta=beta,
            prior_temperature=prior_temperature,
            inner_alpha=inner_alpha,
            inner_beta=inner_beta,
        )

    def divergence(self, adv_logits: Tensor, clean_logits: Tensor, weights: Tensor) -> Tensor:
        """Return IKL, a scalar."""
        return ikl_divergence(adv_logits, clean_logits, weights, alpha=self.alpha, beta=self.beta)


@LOSSES.register("gkl")
class GKL(_ClassWise):
    """CE(z, y) + the generalized KL divergence, with smoothed class-wise weights (arXiv 2503.08038).

    Args:
        alpha, beta: weights of the soft cross-entropy and of the mean square error.
        gamma: smoothing exponent of the class prior.
        prior_temperature: T in the class prior.
        inner_alpha, inner_beta: weights of the two parts in the training attack.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        alpha: Weight = 4.0,
        beta: Weight = 20.0,
        gamma: Weight = 1.0,
        prior_temperature: Temperature = 4.0,
        inner_alpha: Weight = 1.0,
        inner_beta: Weight = 1.0,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            alpha=alpha,
            beta=beta,
            prior_temperature=prior_temperature,
            inner_alpha=inner_alpha,
            inner_beta=inner_beta,
        )
        self.gamma = gamma

    def divergence(self, adv_logits: Tensor, clean_logits: Tensor, weights: Tensor) -> Tensor:
        """Return GKL, a scalar."""
        return gkl_divergence(adv_logits, clean_logits, weights, alpha=self.alpha, beta=self.beta, gamma=self.gamma)
