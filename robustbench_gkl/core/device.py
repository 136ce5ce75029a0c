"""Devices, and what is global in torch: CUDA's precision and kernels, and the random state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.machine import check_device_name


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:i`` names.

    Raises:
        UserError: another name, or a CUDA device that is not there.
    """
    check_device_name(name)
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= count:
        raise UserError(f"--device {name}: this machine has {count} CUDA devices; use --device cpu or auto")
    return torch.device(name)


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's parameters are; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return ``values`` (...), made on the CPU, on ``device``; the host does not wait for a copy to CUDA."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


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


@contextmanager
def deterministic_kernels(*, wanted: bool) -> Iterator[None]:
    """Let CUDA use kernels alone, in the block, that give the same bits each time they are given the same.

    Nothing changes unless they are ``wanted``, and on the CPU, where all kernels in use are such.

    Raises:
        UserError: something in the block has no such kernel.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    searched, cudnn.benchmark = cudnn.benchmark, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).partition(". ")[0]
        raise UserError(f"deterministic kernels are asked for, but {reason}; leave out --deterministic") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = searched


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Let torch's generators be, after the block, what they were before it.

    Args:
        device: where the block works; a seed that is set in it is set on all CUDA devices.
    """
    started = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else []):
        yield
