"""What all losses share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from robustbench_gkl.core.registry import Registry
from robustbench_gkl.core.validation import bind_options

Weight = Annotated[float, Field(ge=0)]
"""An option that weighs a term, or an exponent of weights: a negative one would reward what is to be avoided."""
Temperature = Annotated[float, Field(gt=0)]
"""An option that divides logits."""


class Loss(nn.Module):
    """A training loss: it sees logits and labels, never a model or an optimiser.

    Shapes: ``adv_logits`` and ``clean_logits`` (B, K) float, ``labels`` (B,) int64. State, such as GKL's class
    prior, is a registered buffer, so that it is saved and moved with the loss.
    """

    crafts: ClassVar[bool] = True
    """Whether adversarial images are made at all."""
    inner_needs_clean: ClassVar[bool] = False
    """Whether ``inner`` reads the clean logits."""
    outer_needs_clean: ClassVar[bool] = True
    """Whether ``terms`` reads the clean logits."""
    start: ClassVar[Literal["gaussian", "uniform"]] = "uniform"
    """Where the published attack on this loss starts."""

    label_smoothing: float = 0.0
    """Share of the label's weight that is spread over all classes in :meth:`cross_entropy`."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the batch mean of the cross-entropy with the labels, smoothed, for use in :meth:`terms`."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def inner(self, adv_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """Return (B,): what the training attack maximises for each sample.

        ``clean_logits`` are eval-mode and without a graph; they may be anything if ``inner_needs_clean`` is False.
        """
        return F.cross_entropy(adv_logits, labels, reduction="none")

    def terms(self, adv_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the named scalar terms, weights included, whose sum the optimiser minimises."""
        raise NotImplementedError

    def outer(self, adv_logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar that the optimiser minimises: the sum of the terms."""
        return torch.stack(list(self.terms(adv_logits, clean_logits, labels).values())).sum()

    def observe(self, clean_logits: Tensor, labels: Tensor) -> None:
        """Take note of one training batch's clean logits, for losses with state."""

    def end_epoch(self) -> None:
        """Update the state from what was observed in the epoch."""


LOSSES: Registry[type[Loss]] = Registry("loss", "robustbench_gkl.losses")


def create_loss(
    name: str, *, num_classes: int, options: Mapping[str, object] | None = None, label_smoothing: float = 0.0
) -> Loss:
    """Build a registered loss.

    Args:
        name: such as ``"trades"`` or ``"gkl"``.
        num_classes: K.
        options: the loss's own, such as ``{"beta": 6.0}``.
        label_smoothing: in the outer loss's cross-entropy with the labels; the training attack sees hard labels.

    Raises:
        UserError: unknown name or option, or an option of a wrong type.
    """
    cls, _ = LOSSES.resolve(name)
    loss = bind_options(cls, options or {}, what=f"loss {name}", num_classes=num_classes)
    loss.label_smoothing = label_smoothing
    return loss


def kl_divergence(clean_logits: Tensor, adv_logits: Tensor) -> Tensor:
    """Return (B,): KL(softmax(clean) || softmax(adv)) of logits (B, K) in nats, with gradients on both sides."""
    clean_log = F.log_softmax(clean_logits, 1)
    return (clean_log.exp() * (clean_log - F.log_softmax(adv_logits, 1))).sum(1)
