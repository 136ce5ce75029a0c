"""Attacks as state machines, so that one loop can drive many samples at different steps in one batch.

An attack keeps one *slot* per sample that it works on. In each slot it holds the point at which it wants to
know the model's logits, and perhaps their gradient; given the answer it moves on. Random restarts and targets are
*runs*: a sample goes through the runs of an attack one after the other until it falls.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

_BLOCK = 1 << 17
"""Numbers in a block of rows on a CPU: few enough to stay in its caches, and enough that calls do not dominate."""


@dataclass(frozen=True)
class Space:
    """Where a search takes place.

    Attributes:
        slots: how many samples are searched at once, at most.
        shape: (channels, height, width) of the images.
        num_classes: length of the logits.
        threat: what is allowed.
        device: where state lives.
    """

    slots: int
    shape: tuple[int, int, int]
    num_classes: int
    threat: ThreatModel
    device: torch.device


@dataclass(frozen=True)
class Batch:
    """The samples that begin a run.

    Attributes:
        images: (B, C, H, W), the originals.
        labels: (B,) int64.
        target: (B,) int64, the class that this run aims at; absent unless the attack has targets.
        noise: the random numbers of these samples in this run.
        run: the run's number, from 0.
    """

    images: Tensor
    labels: Tensor
    target: Tensor | None
    noise: Noise
    run: int


@dataclass(frozen=True)
class Rows:
    """The slots of a batch, as an index on the host and on the device: all up to some slot, or a list of slots."""

    host: slice | np.ndarray
    device: slice | Tensor

    @staticmethod
    def first(count: int) -> Rows:
        """Return the first ``count`` slots."""
        return Rows(slice(0, count), slice(0, count))

    @staticmethod
    def of(slots: np.ndarray, device: torch.device) -> Rows:
        """Return the given slots."""
        return Rows(slots, torch.from_numpy(slots).to(device, non_blocking=True))

    def where(self, chosen: np.ndarray) -> np.ndarray:
        """Return the slots of the rows at which ``chosen`` (B,) holds."""
        picked: np.ndarray = chosen.nonzero()[0]
        return picked if isinstance(self.host, slice) else self.host[picked]


@dataclass(frozen=True)
class Answer:
    """What the model says at the query points of some rows.

    Attributes:
        logits: (B, K) float32.
        wrong: (B,) bool on the host: misclassified.
        value: (B,) the objective; None if no gradient was asked for.
        gradient: (B, C, H, W) of the objective; None likewise.
    """

    logits: Tensor
    wrong: np.ndarray
    value: Tensor | None
    gradient: Tensor | None


class Search(ABC):
    """An attack under way in a number of slots.

    A subclass allocates its state with :meth:`buffer` once, so that memory is fixed, and a slot can be moved.

    Attributes:
        step: (slots,) int64 on the host: how far each run has come, out of ``length``.
        wants_gradient: (slots,) bool on the host: whether the next answer needs a gradient.
        finished: (slots,) bool on the host: the run is over.
        labels: (slots,) int64.
    """

    splits: ClassVar[bool] = False
    """Whether rows that need no gradient may be asked about apart from those that do."""
    evaluations: int = 1
    """Gradients averaged per step (expectation over transformations)."""

    def __init__(self, space: Space, *, length: int) -> None:
        self.space, self.threat, self.length = space, space.threat, length
        self._buffers: list[str] = []
        self.step = np.zeros(space.slots, dtype=np.int64)
        self.wants_gradient = np.ones(space.slots, dtype=bool)
        self.finished = np.zeros(space.slots, dtype=bool)
        self.labels = torch.zeros(space.slots, dtype=torch.int64, device=space.device)
        self._buffers.append("labels")

    @property
    @abstractmethod
    def query(self) -> Tensor:
        """(slots, C, H, W): where the model is asked next."""

    @abstractmethod
    def begin(self, rows: Rows, batch: Batch) -> None:
        """Start a run of ``batch`` in the slots ``rows``; state they held is void."""

    def prepare(self, rows: Rows) -> None:  # noqa: B027
        """Set the query points, where they are made just before the question; slots do not move until the answer."""

    @abstractmethod
    def advance(self, rows: Rows, answer: Answer) -> None:
        """Take the answer at the query points of ``rows``; set the next ones, or ``finished``."""

    @abstractmethod
    def objective(self, rows: Rows, logits: Tensor) -> Tensor:
        """Return what is maximised at ``rows``, (B,), as a function of their logits."""

    def slope(self, rows: Rows, logits: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective (B,) and its gradient (B, C, H, W), from logits that carry a graph."""
        value = self.objective(rows, logits)
        (gradient,) = torch.autograd.grad(value.sum(), points)
        return value.detach(), gradient

    def counts(self, rows: Rows, wrong: np.ndarray) -> np.ndarray:
        """Return (B,) bool on the host: which of the misclassified query points are meant as successes."""
        return wrong

    def leftover(self, rows: Rows) -> Tensor:
        """Return the point of each finished run that found nothing, (B, C, H, W), inside the threat model."""
        return self.query[rows.device]

    def buffer(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a zero tensor (slots, *shape) that is kept as the attribute ``name``."""
        self._buffers.append(name)
        return torch.zeros(self.space.slots, *shape, dtype=dtype, device=self.space.device)

    def scalar(self, name: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a zero per slot, (slots,)."""
        return self.buffer(name, dtype=dtype)

    def image(self, name: str) -> Tensor:
        """Return a zero image per slot, (slots, C, H, W)."""
        return self.buffer(name, *self.space.shape)

    def host(self) -> list[np.ndarray]:
        """Return the arrays of per-slot state on the host."""
        return [self.step, self.wants_gradient, self.finished]

    def move(self, source: int, target: int) -> None:
        """Copy one slot's state over another's."""
        for name in self._buffers:
            tensor: Tensor = getattr(self, name)
            tensor[target] = tensor[source]
        for array in self.host():
            array[target] = array[source]

    def blocks(self, count: int) -> Iterator[slice]:
        """Cut the first ``count`` slots into slices that fit the cache (one slice on other devices than CPUs)."""
        size = max(1, _BLOCK // math.prod(self.space.shape)) if self.space.device.type == "cpu" else max(1, count)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))


def column(values: Tensor) -> Tensor:
    """Return ``values`` (B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]


def copy_rows(target: Tensor, source: Tensor, slots: Tensor) -> None:
    """Copy the rows ``slots`` of ``source`` to ``target``."""
    target.index_copy_(0, slots, source.index_select(0, slots))


def take_rows(source: Tensor, at: slice | Tensor) -> Tensor:
    """Return the rows ``at`` of ``source``: themselves for a slice, else a copy."""
    return source[at] if isinstance(at, slice) else source.index_select(0, at)


def put_rows(target: Tensor, at: slice | Tensor, rows: Tensor) -> None:
    """Write back what :func:`take_rows` returned; nothing to do where it returned the rows themselves."""
    if not isinstance(at, slice):
        target.index_copy_(0, at, rows)
