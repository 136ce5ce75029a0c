"""From another's network to a classifier that is known to work."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.base import Classifier, WrappedClassifier

_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def wrap(
    net: nn.Module,
    *,
    what: str,
    num_classes: int,
    input_shape: Shape,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
    explained: AbstractContextManager[None] | None = None,
) -> Classifier:
    """Return ``net`` behind the [0, 1] input, in eval mode on ``device``, after it has predicted two black images.

    Args:
        net: takes normalised images (B, C, H, W) and returns logits (B, K).
        what: what to call it in errors.
        num_classes: K.
        input_shape: (C, H, W).
        mean, std: normalisation in front of it; None for none.
        device: where to put it.
        explained: turns what the network raises into a UserError.

    Raises:
        UserError: the prediction fails or is no (2, K) tensor of floats.
    """
    model = WrappedClassifier(net, num_classes=num_classes, input_shape=input_shape, mean=mean, std=std)
    model = model.eval().to(device)
    images = torch.zeros(2, *input_shape, device=device)
    shown = "x".join(map(str, input_shape))
    try:
        with explained or contextlib.nullcontext(), torch.no_grad():
            logits: object = model(images)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else one_line(error)
        raise UserError(f"{what} cannot predict images of {shown} ({told})") from error
    if not isinstance(logits, Tensor):
        raise UserError(f"{what} returns a {type(logits).__name__} and not a tensor; return the logits alone")
    if logits.shape != (2, num_classes) or not logits.is_floating_point():
        came = "x".join(map(str, logits.shape)) or "a scalar"
        raise UserError(
            f"{what} must return logits of 2x{num_classes} for two images of {shown}, got {came} of "
            f"{str(logits.dtype).removeprefix('torch.')}; check the model and the data set"
        )
    return model


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn any exception in the block into a UserError that begins with ``what``; one that is raised stays."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} ({one_line(error)})") from error


@contextmanager
def package_at_work() -> Iterator[None]:
    """Let a package load weights in the block: silently, and with tensors alone, whatever it asks of torch.load."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
