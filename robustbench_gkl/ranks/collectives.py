"""Rank, world and reductions under torchrun. Without torchrun the world has one process."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from robustbench_gkl.core.device import resolve_device
from robustbench_gkl.core.errors import UserError, lost_rank

_TEXT_BYTES = 2000
"""Of an error message passed between ranks."""


@dataclass(frozen=True)
class World:
    """The processes that work together.

    Attributes:
        rank: this process's number, from 0; rank 0 writes what is written once.
        size: how many there are.
        local_rank: this process's number on its own machine, which picks its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Return whether this process writes what is written once."""
        return self.rank == 0

    @property
    def rows(self) -> slice:
        """The share of this process in anything that is counted from 0: every ``size``-th, from ``rank`` on."""
        return slice(self.rank, None, self.size)


ALONE = World()


def world_from_environment() -> World:
    """Return the world that torchrun describes in RANK, WORLD_SIZE and LOCAL_RANK; a world of one without it.

    Raises:
        UserError: the variables are there but make no sense.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    try:
        world = World(*(int(os.environ.get(key, "0")) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except ValueError:
        world = World(size=0)
    if not 0 <= world.rank < world.size:
        found = ", ".join(f"{key}={os.environ[key]!r}" for key in ("RANK", "WORLD_SIZE"))
        raise UserError(f"expected torchrun's RANK from 0 below WORLD_SIZE, got {found}; start with torchrun")
    return world


def rank_device(name: str, world: World) -> torch.device:
    """Return the device that ``name`` means to this process: with several on CUDA, the GPU of its local rank.

    Raises:
        UserError: what :func:`resolve_device` raises; one numbered GPU for several processes; fewer GPUs than
            processes on this machine.
    """
    device = resolve_device(name)
    if world.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(
            f"--device {name} is one GPU for {world.size} processes; give --device cuda, and each takes its own"
        )
    if world.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"this machine has {torch.cuda.device_count()} CUDA devices and at least {world.local_rank + 1} processes; "
            f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    return torch.device("cuda", world.local_rank)


@contextmanager
def joined(world: World, device: torch.device, *, timeout: timedelta = timedelta(minutes=30)) -> Iterator[World]:
    """Let the processes of ``world`` find each other for the time of the block: NCCL on CUDA, gloo on the CPU.

    Raises:
        ConnectionError: another process ended or cannot be reached.
    """
    if world.size == 1:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The default arguments in this module are the group that there is when it is first imported, as torch's compiler
    # does: that group would never end, nor would its threads, one of which may then abort the process as Python ends.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield world
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "by peer" in str(error) or "gloo" in str(error):
            raise ConnectionError(lost_rank(f"rank {world.rank}", error)) from error
        raise
    finally:
        dist.destroy_process_group()


def sum_over_ranks(tensors: Sequence[Tensor], world: World) -> None:
    """Replace each of ``tensors``, of any shapes, by its sum over all ranks, with one message a dtype and device."""
    if world.size == 1:
        return
    for group in _groups(tensors, lambda tensor: (tensor.dtype, tensor.device)):
        flat = torch.cat([tensor.flatten() for tensor in group])
        dist.all_reduce(flat)
        for tensor, part in zip(group, torch.split(flat, [tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


def copy_from_leader(tensors: Sequence[Tensor], world: World) -> None:
    """Make each of ``tensors``, of any shapes, what it is on rank 0, bit for bit; one message a device."""
    if world.size == 1:
        return
    for group in _groups(tensors, lambda tensor: tensor.device):
        group.sort(key=Tensor.element_size, reverse=True)  # each then lies where a tensor of its dtype may begin
        flat = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for tensor in group])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(group, torch.split(flat, [tensor.nbytes for tensor in group]), strict=True):
            tensor.copy_(part.view(tensor.dtype).view_as(tensor))


def _groups(tensors: Sequence[Tensor], kind: Callable[[Tensor], object]) -> Iterable[list[Tensor]]:
    """Return those of ``tensors`` of the same ``kind`` together."""
    groups: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(kind(tensor), []).append(tensor)
    return groups.values()


def bytes_from_leader(content: bytes | None, world: World) -> bytes | None:
    """Return what rank 0 gives, on all ranks; what the others give is ignored."""
    if world.size == 1:
        return content
    length = torch.tensor([-1 if content is None else len(content)])
    dist.broadcast(length, src=0)
    if int(length) < 0:
        return None
    message = torch.zeros(int(length), dtype=torch.uint8)
    if world.leads and content:
        message = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    dist.broadcast(message, src=0)
    return message.numpy().tobytes()


def on_any_rank(flag: bool, world: World) -> bool:
    """Return whether ``flag`` is set on any rank, on all of them; the device is not waited for, but all ranks are."""
    if world.size == 1:
        return flag
    count = torch.tensor([int(flag)])
    sum_over_ranks([count], world)
    return bool(count)


@contextmanager
def agreed(world: World) -> Iterator[None]:
    """Let all ranks fail if one does: a :class:`UserError` that leaves the block on any is raised on all.

    Nothing in the block may wait for other ranks.

    Raises:
        UserError: that of the lowest rank that has one.
    """
    if world.size == 1:
        yield
        return
    said = b""
    try:
        yield
    except UserError as error:
        said = str(error).encode()[:_TEXT_BYTES] or b"?"
    table = torch.zeros(world.size, _TEXT_BYTES, dtype=torch.uint8)
    table[world.rank, : len(said)] = torch.tensor(list(said), dtype=torch.uint8)
    sum_over_ranks([table], world)
    for row in table:
        if message := row.numpy().tobytes().rstrip(b"\0").decode(errors="replace"):
            raise UserError(message)
