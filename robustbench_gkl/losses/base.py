"""What all losses share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.registry import Registry
from robustbench_gkl.core.validation import bind_options

Member = Literal["clean", "adv", "teacher_clean", "teacher_adv"]
"""One of the logits that a loss can read; see :class:`Logits`."""

Kind = Literal["clean", "robust"]
"""``clean``: a term of the unperturbed images, of which two views give the mean. ``robust``: all others, of which a
second view adds its share."""

ABSENT: Any = None


@dataclass(frozen=True)
class Logits:
    """The logits of one batch, each (B, K) float.

    Those that the loss does not name in ``inner_reads`` or ``outer_reads`` are None. The members are typed as tensors
    so that a loss needs no check for what it named.

    Attributes:
        clean: of the network that is trained, at the images.
        adv: of the network that is trained, at the adversarial images.
        teacher_clean, teacher_adv: of the teacher, at the same images.
    """

    clean: Tensor = ABSENT
    adv: Tensor = ABSENT
    teacher_clean: Tensor = ABSENT
    teacher_adv: Tensor = ABSENT

    @classmethod
    def of(cls, **members: Tensor | None) -> Logits:
        """Return the logits that are given by name; those that are None are absent."""
        return cls(**{name: value for name, value in members.items() if value is not None})

    def present(self) -> dict[Member, Tensor]:
        """Return the members that are not None, by name."""
        found: dict[Member, Tensor] = {}
        for name in MEMBERS:
            value: Tensor | None = getattr(self, name)
            if value is not None:
                found[name] = value
        return found

    def map(self, function: Callable[[Tensor], Tensor]) -> Logits:
        """Return the logits with ``function`` applied to each member that is not None."""
        return Logits(**{name: function(value) for name, value in self.present().items()})


MEMBERS: tuple[Member, ...] = tuple(field.name for field in fields(Logits))  # type: ignore[misc]

Weight = Annotated[float, Field(ge=0)]
"""An option that weighs a term, or an exponent of weights: a negative one would reward what is to be avoided."""
Temperature = Annotated[float, Field(gt=0)]
"""An option that divides logits."""


class Loss(nn.Module):
    """A training loss: it sees logits and labels, never a model or an optimiser.

    A loss names the logits that it reads, and only these are computed. Its parameters are trained with the model's.
    State, such as GKL's class prior, is a registered buffer. Both are saved and moved with the loss.
    """

    inner_reads: ClassVar[tuple[Member, ...]] = ("adv",)
    """What :meth:`inner` reads."""
    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv")
    """What :meth:`terms` reads."""
    crafts: ClassVar[bool] = True
    """Whether adversarial images are crafted: if :meth:`terms` reads logits of such, set by the class itself."""
    taught: ClassVar[bool] = False
    """Whether a teacher's logits are read, set by the class itself."""
    kinds: ClassVar[Mapping[str, Kind]] = {}
    """The kind of each term that :meth:`terms` returns."""
    start: ClassVar[Literal["gaussian", "uniform"]] = "uniform"
    """Where the published attack on this loss starts."""

    label_smoothing: float = 0.0
    """Share of the label's weight that is spread over all classes in :meth:`cross_entropy`."""

    def __init_subclass__(cls) -> None:
        for what, reads in (("inner_reads", cls.inner_reads), ("outer_reads", cls.outer_reads)):
            if isinstance(reads, str) or not set(reads) <= set(MEMBERS):
                raise ValueError(f"{cls.__name__}.{what} is a tuple of {', '.join(MEMBERS)}; got {reads!r}")
        cls.crafts = not {"adv", "teacher_adv"}.isdisjoint(cls.outer_reads)
        read = {*cls.outer_reads, *(cls.inner_reads if cls.crafts else ())}
        cls.taught = not {"teacher_clean", "teacher_adv"}.isdisjoint(read)

    def __repr__(self) -> str:
        values = ((name, getattr(self, name, None)) for name in inspect.signature(type(self)).parameters)
        known = (f"{name}={value!r}" for name, value in values if isinstance(value, (bool, int, float, str)))
        return f"{type(self).__name__}({', '.join(known)})"

    @property
    def reads(self) -> set[Member]:
        """The members that are read at all; what :meth:`inner` reads counts if images are crafted."""
        return {*self.outer_reads, *(self.inner_reads if self.crafts else ())}

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the batch mean of the cross-entropy with the labels, smoothed, for use in :meth:`terms`.

        Shapes: ``logits`` (B, K), ``labels`` (B,) int64.
        """
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def inner(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return (B,): what the training attack maximises for each sample.

        Args:
            logits: the members in ``inner_reads``, of the network in eval mode. Those of the clean images have no
                graph; through those of the adversarial images the gradient reaches the points.
            labels: (B,) int64.
        """
        return F.cross_entropy(logits.adv, labels, reduction="none")

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        """Return the named scalar terms, weights included, whose sum the optimiser minimises.

        Args:
            logits: the members in ``outer_reads``, of the network in training mode. Those of the teacher have no graph.
            labels: (B,) int64.
        """
        raise NotImplementedError

    def outer(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return the scalar that the optimiser minimises: the sum of the terms."""
        return torch.stack(list(self.terms(logits, labels).values())).sum()

    def observe(self, logits: Logits, labels: Tensor) -> None:
        """Take note of one training batch after its update, for losses with state.

        Args:
            logits: the members in ``outer_reads`` for the first view of each image, without a graph.
            labels: (B,) int64.
        """

    def start_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch, counted from 0; called again where a run goes on within an epoch."""

    def end_epoch(self) -> None:
        """Update the state from what was observed in the epoch."""


def _check(name: str, loss: type[Loss]) -> None:
    """Check that a class can be a loss."""
    if not (inspect.isclass(loss) and issubclass(loss, Loss)):
        raise UserError(f"loss {name!r} must be a class derived from Loss, got {loss!r}")
    for method in ("terms", "inner", "observe"):
        signature = inspect.signature(getattr(loss, method))
        try:
            signature.bind(loss, None, None)
        except TypeError:
            raise UserError(f"loss {name!r}: {method} must take (self, logits, labels), got {signature}") from None


LOSSES: Registry[type[Loss]] = Registry("loss", "robustbench_gkl.losses", check=_check)


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
        UserError: unknown name or option, an option of a wrong type, or one that the loss needs and is not given.
    """
    cls, _ = LOSSES.resolve(name)
    loss = bind_options(cls, options or {}, what=f"loss {name}", num_classes=num_classes)
    loss.label_smoothing = label_smoothing
    return loss


def kl_divergence(clean_logits: Tensor, adv_logits: Tensor) -> Tensor:
    """Return (B,): KL(softmax(clean) || softmax(adv)) of logits (B, K) in nats, with gradients on both sides."""
    clean_log = F.log_softmax(clean_logits, 1)
    return (clean_log.exp() * (clean_log - F.log_softmax(adv_logits, 1))).sum(1)
