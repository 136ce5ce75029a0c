"""Devices, and the precision in which CUDA multiplies."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_gkl.core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:i`` names.

    Raises:
        UserError: another name, or a CUDA device that is not there.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (kind == "cpu" and number) or (number and not number.isdigit()):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:i, got {name!r}")
    if kind == "cuda" and int(number or 0) >= count:
        raise UserError(f"--device {name}: this machine has {count} CUDA devices; use --device cpu or auto")
    return torch.device(name)


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's parameters are; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class TensorCores:
    """Allow TF32 in CUDA's matrix products and convolutions in the block, or forbid it.

    May be entered again and again, but not inside itself.
    """

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed

    def __enter__(self) -> None:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        self._before = (matmul.allow_tf32, cudnn.allow_tf32)
        matmul.allow_tf32 = cudnn.allow_tf32 = self.allowed

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


def full_precision() -> TensorCores:
    """Return the context in which products and convolutions are true float32."""
    return TensorCores(allowed=False)
