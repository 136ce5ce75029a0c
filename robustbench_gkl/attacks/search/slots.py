"""The slots of a search: one per sample that it works on, so that samples at different steps share a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
    """

    slots: int
    shape: tuple[int, int, int]
    num_classes: int
    threat: ThreatModel
    device: torch.device


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
        return Rows(slots, torch.from_numpy(slots).to(device, non_blocking=True))

    def where(self, chosen: np.ndarray) -> np.ndarray:
        """Return (n,) int64: the slots of the rows at which ``chosen`` (B,) bool is True."""
        picked: np.ndarray = chosen.nonzero()[0]
        return picked if isinstance(self.host, slice) else self.host[picked]


@dataclass(frozen=True)
class Answer:
    """The model's answer at the query points of some rows.

    Attributes:
        logits: (B, K) float32.
        wrong: (B,) bool on the host: misclassified.
        value: (B,) the objective; None without a gradient.
        gradient: (B, C, H, W) of the objective; None likewise.
    """

    logits: Tensor
    wrong: np.ndarray
    value: Tensor | None
    gradient: Tensor | None


def column(values: Tensor) -> Tensor:
    """Return ``values`` (B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]


def copy_rows(target: Tensor, source: Tensor, slots: Tensor) -> None:
    """Copy the rows ``slots`` (n,) of ``source`` (slots, ...) to ``target`` (slots, ...)."""
    target.index_copy_(0, slots, source.index_select(0, slots))


def take_rows(source: Tensor, at: slice | Tensor) -> Tensor:
    """Return the rows ``at`` of ``source`` (slots, ...), (n, ...): a view for a slice, else a copy."""
    return source[at] if isinstance(at, slice) else source.index_select(0, at)


def put_rows(target: Tensor, at: slice | Tensor, rows: Tensor) -> None:
    """Write ``rows`` (n, ...) back to where :func:`take_rows` took them from; a view needs no writing."""
    if not isinstance(at, slice):
        target.index_copy_(0, at, rows)
