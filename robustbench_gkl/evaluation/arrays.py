"""Images, labels and threat models as Python callers have them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.threat import ThreatModel

Arrays: TypeAlias = Any
"""A tensor, a numpy array, or nested lists."""
Threat: TypeAlias = ThreatModel | tuple[str, str | int | float | Fraction]
"""A threat model, or norm and eps such as ``("Linf", "8/255")``."""


def as_threat(threat: Threat) -> ThreatModel:
    """Return a threat model.

    Raises:
        UserError: neither a threat model nor a norm with a radius.
    """
    if isinstance(threat, ThreatModel):
        return threat
    if isinstance(threat, (tuple, list)) and len(threat) == 2:
        return ThreatModel(*threat)
    raise UserError(f"the threat must be a ThreatModel or (norm, eps) such as ('linf', '8/255'), got {threat!r}")


def as_images(images: Arrays) -> Tensor:
    """Return images (N, C, H, W), uint8, or float32 in [0, 1].

    Raises:
        UserError: another shape, such as (N, H, W, C), another type, or values out of range.
    """
    found = _as_tensor(images, "images")
    if found.dim() != 4 or len(found) == 0:
        raise UserError(f"images must have shape (N, C, H, W) with N at least 1, got {tuple(found.shape)}")
    if found.shape[3] in (1, 3) and found.shape[1] not in (1, 3):
        raise UserError(
            f"images must have shape (N, C, H, W), got {tuple(found.shape)}, which looks like (N, H, W, C); "
            "give images.transpose(0, 3, 1, 2)"
        )
    if found.dtype == torch.uint8:
        return found
    if not found.is_floating_point():
        raise UserError(f"images must be uint8, or floats in [0, 1], got {found.dtype}; convert them to uint8")
    found = found.float()
    check_range(found)
    return found


def check_range(images: Tensor) -> None:
    """Check that float images (N, C, H, W) are finite and in [0, 1].

    Raises:
        UserError: they are not.
    """
    if not bool(images.isfinite().all()):
        raise UserError("images hold NaN or infinite values; every pixel must lie in [0, 1]")
    low, high = float(images.min()), float(images.max())
    if low >= 0 and 1 < high <= 255:
        raise UserError(f"images must lie in [0, 1], got values from {low:g} to {high:g}; divide them by 255")
    if low < 0 or high > 1:
        raise UserError(
            f"images must lie in [0, 1], got values from {low:g} to {high:g}; take back the normalisation, which "
            "belongs inside the model"
        )


def as_labels(labels: Arrays, n: int) -> Tensor:
    """Return labels (N,) int64 on the CPU.

    Raises:
        UserError: not ``n`` integers.
    """
    found = _as_tensor(labels, "labels")
    if not _are_integers(found, n):
        hint = "; give labels.argmax(1)" if found.dim() == 2 else ""
        raise UserError(f"labels must be {n} integers, got {found.dtype} {tuple(found.shape)}{hint}")
    return found.cpu().long()


def as_index(index: Arrays, n: int) -> Tensor | None:
    """Return the samples' indices in the split (N,) int64 on the CPU; None for its first ``n`` in their order.

    Raises:
        UserError: not ``n`` integers, one below 0, or one given twice.
    """
    found = _as_tensor(index, "index")
    if not _are_integers(found, n):
        raise UserError(f"index must be {n} integers, one an image, got {found.dtype} {tuple(found.shape)}")
    found = found.cpu().long()
    if int(found.min()) < 0 or len(set(found.tolist())) < n:
        raise UserError("index must name each sample once, by its place in the split from 0 on")
    return None if torch.equal(found, torch.arange(n)) else found


def _are_integers(values: Tensor, n: int) -> bool:
    return values.shape == (n,) and not values.is_floating_point() and values.dtype != torch.bool


def _as_tensor(values: Arrays, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        return torch.from_numpy(np.ascontiguousarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"{what} must be a tensor or an array of numbers, got {type(values).__name__} ({text})"
        ) from None
