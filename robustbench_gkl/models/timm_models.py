"""The architectures of timm (PyTorch Image Models), behind the extra of that name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import MODELS, Classifier


class TimmClassifier(Classifier):
    """A timm model behind the [0, 1] input.

    Args:
        net: the model, which takes normalised images and returns logits.
        num_classes, input_shape, mean, std: see :class:`Classifier`.
    """

    published_under: ClassVar[str] = "net."

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
        self.net = net

    def forward_normalized(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.net(images)
        return logits


def _import_timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError("timm:NAME needs the timm extra: pip install 'gklbench[timm]'") from error


def _check_known(timm: ModuleType, architecture: str) -> None:
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"timm {timm.__version__} has no model {architecture!r}{hint} (timm.list_models() lists them all)"
        )


def _build(timm: ModuleType, architecture: str, *, num_classes: int, shape: Shape) -> nn.Module:
    """Build the model and let it predict one black image: some sizes only fail there."""
    channels, height, width = shape
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    try:
        if timm.models.get_pretrained_cfg(architecture).fixed_input_size:
            options["img_size"] = (height, width)
        net: nn.Module = timm.create_model(architecture, pretrained=False, **options)
        with torch.no_grad():
            logits = net.eval()(torch.zeros(1, *shape))
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"timm cannot build {architecture!r} for images of {_times(shape)}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise UserError(f"timm's {architecture!r} is no classifier: it does not return {num_classes} logits")
    return net.train()


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))


@MODELS.register("timm:NAME", pattern=r"timm:(?P<architecture>.+)")
def timm_model(
    *,
    architecture: str,
    num_classes: int,
    input_shape: Shape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Any classifier that timm can build, with fresh weights, such as timm:convnext_atto (needs the extra).

    Without ``input_shape``, or without ``mean`` and ``std``, those of timm's own weights are taken; its
    constants only where the number of channels fits.

    Raises:
        UserError: timm is not installed, has no such model, or cannot build it for these images.
    """
    timm = _import_timm()
    _check_known(timm, architecture)
    published = timm.models.get_pretrained_cfg(architecture.partition(".")[0])
    shape: Shape = input_shape or published.input_size
    if mean is None and std is None and len(published.mean) == shape[0]:
        mean, std = published.mean, published.std
    return TimmClassifier(
        _build(timm, architecture, num_classes=num_classes, shape=shape),
        num_classes=num_classes,
        input_shape=shape,
        mean=mean,
        std=std,
    )
