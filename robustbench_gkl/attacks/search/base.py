"""Attacks as state machines, so that one loop can drive many samples at different steps in one batch.

A search keeps one *slot* per sample that it works on. In each slot it holds the point at which it needs the model's
logits, and perhaps their gradient; given the answer it sets the next point. Random restarts and targets are *runs*: a
sample goes through the runs of an attack one after the other until it falls.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.search.slots import Answer, Rows, Space, Starts
from robustbench_gkl.core.feasible import FeasibleSet

_BLOCK = 1 << 17
"""Numbers in a block of rows on a CPU: few enough to stay in its caches, and enough that calls do not dominate."""


class Search(ABC):
    """An attack under way in a number of slots.

    A subclass allocates its state once, with :meth:`image`, :meth:`scalar`, :meth:`feasible_set` and :meth:`on_host`,
    so that memory is fixed and :meth:`move` covers all of it.

    Attributes:
        step: (slots,) int64 on the host: how far each run has come, out of ``length``.
        wants_gradient: (slots,) bool on the host: whether the next answer needs a gradient.
        finished: (slots,) bool on the host: the run is over.
        labels: (slots,) int64.
        host_labels: the same on the host.
        targets: (slots,) int64: the class that each run aims at; 0 in attacks without targets.
    """

    splits: ClassVar[bool] = False
    """Whether rows that need no gradient may be asked about apart from those that do."""
    evaluations: int = 1
    """Gradients averaged per step (expectation over transformations)."""

    def __init__(self, space: Space, *, length: int) -> None:
        self.space, self.threat, self.length = space, space.threat, length
        self._tensors: list[Tensor] = []
        self._arrays: list[np.ndarray] = []
        self.step = self.on_host(0)
        self.wants_gradient = self.on_host(True)
        self.finished = self.on_host(False)
        self.host_labels = self.on_host(0)
        self.labels = self.scalar(dtype=torch.int64)
        self.targets = self.scalar(dtype=torch.int64)

    @property
    @abstractmethod
    def query(self) -> Tensor:
        """(slots, C, H, W): the points at which the model is evaluated next."""

    @abstractmethod
    def begin(self, rows: Rows, starts: Starts) -> None:
        """Start a run of ``starts`` in the slots ``rows``; the state they held is void, but labels and targets."""

    def rows(self, count: int) -> int:
        """Return how many rows the first ``count`` slots have in the next batch: as many, or a multiple.

        Slots beyond ``count``, which are free, then stand for these in turn, at later steps of theirs.
        """
        return count

    def prepare(self, rows: Rows) -> None:  # noqa: B027
        """Set the query points of ``rows``, if they are made just before the model is called."""

    @abstractmethod
    def advance(self, rows: Rows, answer: Answer) -> None:
        """Set the next query points of ``rows``, or ``finished``, given the answer at the current ones."""

    @abstractmethod
    def objective(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Return what is maximised, (B,), given logits (B, K), labels (B,) and targets (B,)."""

    def slope(self, logits: Tensor, labels: Tensor, targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective (B,) and its gradient (B, C, H, W) at ``points``, from logits that carry a graph."""
        value = self.objective(logits, labels, targets)
        (gradient,) = torch.autograd.grad(value.sum(), points)
        return value.detach(), gradient

    def lengths(self, rows: Rows) -> Tensor | None:
        """Return (B,): how far the query points are, where the judgement needs it; fetched together with the answer."""
        return None

    def counts(self, rows: Rows, answer: Answer) -> np.ndarray:
        """Return (B,) bool on the host: which of the misclassified query points are to count."""
        return answer.wrong

    def leftover(self, rows: Rows) -> Tensor:
        """Return the point of each finished run that found nothing, (B, C, H, W), inside the threat model."""
        return self.query[rows.device]

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return zeros, (slots, *shape), as part of the state."""
        self._tensors.append(torch.zeros(self.space.slots, *shape, dtype=dtype, device=self.space.device))
        return self._tensors[-1]

    def scalar(self, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a zero per slot, (slots,), as part of the state."""
        return self.tensor(dtype=dtype)

    def image(self) -> Tensor:
        """Return a zero image per slot, (slots, C, H, W), as part of the state."""
        return self.tensor(*self.space.shape)

    def feasible_set(self) -> FeasibleSet:
        """Return the threat model's set around an original in each slot, as part of the state."""
        found = self.threat.feasible_set(self.space.slots, self.space.shape, device=self.space.device)
        self._tensors += found.tensors
        return found

    def on_host(self, value: float | bool) -> np.ndarray:
        """Return ``value`` per slot in an array on the host, (slots,) of its type, as part of the state."""
        array: np.ndarray[Any, Any] = np.full(self.space.slots, value)
        self._arrays.append(array)
        return array

    def move(self, source: int, target: int) -> None:
        """Copy one slot's state over another's."""
        for tensor in self._tensors:
            tensor[target] = tensor[source]
        for array in self._arrays:
            array[target] = array[source]

    def blocks(self, count: int) -> Iterator[slice]:
        """Cut the first ``count`` slots into slices that fit the cache (one slice on other devices than CPUs)."""
        size = max(1, _BLOCK // math.prod(self.space.shape)) if self.space.device.type == "cpu" else max(1, count)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))
