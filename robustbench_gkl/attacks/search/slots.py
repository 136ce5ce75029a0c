"""The slots of a search: one per sample that it works on, so that samples at different steps share a batch."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.core.device import sent
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel


@dataclass(frozen=True)
class Space:
    """The size and place of a search.

    Attributes:
        slots: how many samples are searched at once, at most.
        shape: (channels, height, width) of the images.
        num_classes: length of the logits.
        threat: the threat model.
        device: of the state.
        kernels: the compiled steps, if these are to be taken: see :mod:`robustbench_gkl.attacks.search.compiled`.
    """

    slots: int
    shape: tuple[int, int, int]
    num_classes: int
    threat: ThreatModel
    device: torch.device
    kernels: ModuleType | None = None


@dataclass(frozen=True)
class Starts:
    """The samples that start on one of their runs; labels and targets are in the search's state.

    Attributes:
        images: (B, C, H, W) in [0, 1], the originals.
        noise: the random numbers of these samples in this run.
        run: the run's number, from 0.
    """

    images: Tensor
    noise: Noise
    run: int


@dataclass(frozen=True)
class Rows:
    """Some slots, as an index on the host and on the device: all up to some slot, or a list of slots, (B,) int64."""

    host: slice | np.ndarray
    device: slice | Tensor

    @staticmethod
    def first(count: int) -> Rows:
        """Return the first ``count`` slots."""
        return Rows(slice(0, count), slice(0, count))

    @staticmethod
    def of(slots: np.ndarray, device: torch.device) -> Rows:
        """Return the given ``slots``, (B,) int64."""
        return Rows(slots, sent(torch.from_numpy(slots), device))

    def where(self, chosen: np.ndarray) -> np.ndarray:
        """Return (n,) int64: the slots of the rows at which ``chosen`` (B,) bool is True."""
        picked: np.ndarray = chosen.nonzero()[0]
        return picked if isinstance(self.host, slice) else self.host[picked]


@dataclass(frozen=True)
class Answer:
    """The model's answer at the query points of some rows.

    Attributes:
        logits: (B, K) float32 on the host.
        wrong: (B,) bool on the host: misclassified.
        value: (B,) the objective; None without a gradient.
        gradient: (B, C, H, W) of the objective; None likewise.
        lengths: (B,) on the host: what :meth:`Search.lengths` gave; None without.
    """

    logits: Tensor
    wrong: np.ndarray
    value: Tensor | None
    gradient: Tensor | None
    lengths: np.ndarray | None = None


def fetched(*parts: Tensor) -> list[np.ndarray]:
    """Return ``parts``, (B,) or (B, n) of numbers that float32 holds exactly, as float32 on the host, in one transfer.

    On a CPU they share memory with ``parts`` where these are float32 already.
    """
    columns = [part.float() for part in parts]
    if columns[0].device.type == "cpu":
        return [part.numpy() for part in columns]
    if len(columns) == 1:
        return [columns[0].cpu().numpy()]
    ends = np.cumsum([part[:1].numel() for part in parts])[:-1]
    whole = torch.cat([part.reshape(len(part), -1) for part in columns], 1).cpu().numpy()
    return [piece.reshape(part.shape) for piece, part in zip(np.split(whole, ends, axis=1), parts, strict=True)]


def column(values: Tensor) -> Tensor:
    """Return ``values`` (B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]


def as_rows(images: Tensor) -> np.ndarray:
    """Return the memory of ``images`` (B, ...), contiguous on the CPU, as (B, D) for a kernel."""
    rows: np.ndarray = images.view(len(images), -1).numpy()
    return rows


def copy_rows(target: Tensor, source: Tensor, slots: Tensor) -> None:
    """Copy the rows ``slots`` (n,) of ``source`` (slots, ...) to ``target`` (slots, ...)."""
    if target.device.type != "cpu":
        target.index_copy_(0, slots, source.index_select(0, slots))
        return
    into, taken = target.numpy(), source.numpy()
    for slot in slots.tolist():  # row by row each is written once, and not into a tensor of its own first
        into[slot] = taken[slot]


def copy_chosen(target: Tensor, source: Tensor, chosen: Tensor, slots: Tensor | None = None) -> None:
    """Copy those rows of ``source`` (slots, ...) to ``target`` (slots, ...) that are ``chosen``.

    Args:
        target, source: of as many dimensions.
        chosen: (n,) bool, of the first n slots, or of ``slots``.
        slots: (n,) int64.
    """
    if target.device.type == "cpu":
        copy_rows(target, source, chosen.nonzero().squeeze(1) if slots is None else slots[chosen])
        return
    # To look which are chosen would cost more than to write the others too.
    picked = chosen.view(-1, *[1] * (target.dim() - 1))
    if slots is None:
        kept = target[: len(chosen)]
        torch.where(picked, source[: len(chosen)], kept, out=kept)
    else:
        target.index_copy_(0, slots, torch.where(picked, source.index_select(0, slots), target.index_select(0, slots)))


def take_rows(source: Tensor, at: slice | Tensor) -> Tensor:
    """Return the rows ``at`` of ``source`` (slots, ...), (n, ...): a view for a slice, else a copy."""
    return source[at] if isinstance(at, slice) else source.index_select(0, at)


def put_rows(target: Tensor, at: slice | Tensor, rows: Tensor) -> None:
    """Write ``rows`` (n, ...) back to where :func:`take_rows` took them from; a view needs no writing."""
    if not isinstance(at, slice):
        target.index_copy_(0, at, rows)
