"""What a driver works on: tasks, the source that they come from, their samples, and the referee of the results."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from robustbench_gkl.core.noise import Noise


class Task(NamedTuple):
    """One run of one sample; earlier runs come first."""

    run: int
    position: int


@dataclass(frozen=True)
class Load:
    """The samples of some tasks.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1] on the device.
        labels: (B,) int64 on the CPU.
        noise: their random numbers.
    """

    images: Tensor
    labels: Tensor
    noise: Noise


class Source(Protocol):
    """Gives out tasks; several drivers may share one."""

    def take(self, free: int, held: int) -> list[Task]:
        """Return at most ``free`` tasks to begin; ``held`` are under way already."""
        ...

    def settle(self, later: Sequence[Task], through: int) -> None:
        """Add the tasks ``later``; ``through`` more samples have no run left."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether no task will ever come again."""
        ...


class Waiting:
    """The tasks of a single driver; earlier runs come first."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = sorted(tasks)

    def take(self, free: int, held: int) -> list[Task]:
        """Return the next tasks, at most ``free``."""
        return [heapq.heappop(self._tasks) for _ in range(min(free, len(self._tasks)))]

    def settle(self, later: Sequence[Task], through: int) -> None:
        """Add the tasks ``later``."""
        for task in later:
            heapq.heappush(self._tasks, task)

    @property
    def exhausted(self) -> bool:
        """Whether no task is left."""
        return not self._tasks


class Samples(Protocol):
    """The samples of an evaluation by their positions, integers from 0."""

    def load(self, positions: Sequence[int]) -> Load:
        """Return the samples at ``positions``."""
        ...

    def ranking(self, positions: Sequence[int]) -> Tensor:
        """Return (B, K - 1) int64 on the CPU: the classes but the label, by falling logit of the unattacked image."""
        ...


class Referee(Protocol):
    """Decides which candidates are successes, and keeps account of the runs."""

    def confirm(self, positions: Sequence[int], points: Tensor) -> np.ndarray:
        """Return (B,) bool: whether each of ``points`` (B, C, H, W) succeeds against the sample at its position."""
        ...

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        """Note which runs are over.

        Args:
            done: those that ended without a success.
            fallen: those that ended in one.
            left: the last points of ``done``, (B, C, H, W); None if there are none.
        """
        ...

    def should_stop(self) -> bool:
        """Return whether to leave the loop before the next step."""
        ...
