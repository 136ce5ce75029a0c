"""What a driver works on: tasks, the source that they come from, their samples, and the referee of the results."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
    """Gives out tasks, and knows what follows them; several drivers may share one."""

    def take(self, free: int, held: int) -> list[Task]:
        """Return at most ``free`` tasks to begin; ``held`` are under way already."""
        ...

    def settle(self, done: Sequence[Task], gone: Sequence[Task]) -> None:
        """Note which tasks are over: after those ``done`` their samples' next runs are due, after those ``gone`` none.

        Of a sample that is gone, earlier runs may still be under way; they go on.
        """
        ...

    @property
    def exhausted(self) -> bool:
        """Whether no task will ever come again."""
        ...


class Waiting:
    """The tasks of the drivers of one process; earlier runs come first.

    Args:
        tasks: the first of each sample.
        runs: how many a sample has.
        at_once: whether a sample that has stood one run goes through all others at once, as far as slots are free.
            Few samples fall later than in their first run, and full batches cost less than nearly empty ones.
        drivers: how many share the tasks; none holds more than its part of them.
    """

    def __init__(self, tasks: Iterable[Task], *, runs: int = 1, at_once: bool = False, drivers: int = 1) -> None:
        self._tasks, self._runs, self._at_once, self._drivers = sorted(tasks), runs, at_once, drivers
        self._followed: set[int] = set()
        self._gone: set[int] = set()
        self._under_way = 0

    def take(self, free: int, held: int) -> list[Task]:
        """Return the next tasks, at most ``free``."""
        part = -(-(len(self._tasks) + self._under_way) // self._drivers)
        taken: list[Task] = []
        while self._tasks and len(taken) < min(free, part - held):
            task = heapq.heappop(self._tasks)
            if task.position not in self._gone:
                taken.append(task)
        self._under_way += len(taken)
        return taken

    def settle(self, done: Sequence[Task], gone: Sequence[Task]) -> None:
        """Add the tasks that follow."""
        self._under_way -= len(done) + len(gone)
        self._gone.update(task.position for task in gone)
        for run, position in done:
            if position in self._followed:
                continue
            end = self._runs if self._at_once else min(run + 2, self._runs)
            for later in range(run + 1, end):
                heapq.heappush(self._tasks, Task(later, position))
            if self._at_once:
                self._followed.add(position)

    @property
    def exhausted(self) -> bool:
        """Whether no task waits or is under way."""
        return not self._tasks and not self._under_way


class InOrder:
    """The ends of runs, put into the order of each sample's runs: a run counts when all before it have stood.

    So a sample falls to the first run that breaks it, whichever was the first to end.

    Args:
        at: the run that each sample begins with, by position.
    """

    def __init__(self, at: Mapping[int, int]) -> None:
        self._next = dict(at)
        self._ended: dict[int, dict[int, bool]] = defaultdict(dict)

    def sorted(self, done: Sequence[Task], fallen: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Return the runs that count from now on: those that stood and those that fell.

        Args:
            done: runs that ended without a success.
            fallen: runs that ended in one.
        """
        for tasks, fell in ((done, False), (fallen, True)):
            for run, position in tasks:
                self._ended[position][run] = fell
        stood, broken = [], []
        for position in dict.fromkeys(task.position for task in (*done, *fallen)):
            ended = self._ended[position]
            while position in self._next and (run := self._next[position]) in ended:
                if ended.pop(run):
                    broken.append(Task(run, position))
                    del self._next[position]
                else:
                    stood.append(Task(run, position))
                    self._next[position] = run + 1
        return stood, broken

    def early(self) -> list[Task]:
        """Return the first run that each sample fell in, where none before it did, but not all of these are over."""
        falls = {position: [run for run, fell in self._ended[position].items() if fell] for position in self._next}
        return [Task(min(runs), position) for position, runs in falls.items() if runs]


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

    def confirm(self, tasks: Sequence[Task], points: Tensor) -> np.ndarray:
        """Return (B,) bool: whether each of ``points`` (B, C, H, W) succeeds against the sample of its task."""
        ...

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        """Note which runs are over; those of one sample may come in any order.

        Args:
            done: those that ended without a success.
            fallen: those that ended in one.
            left: the last points of ``done``, (B, C, H, W); None if there are none.
        """
        ...

    def should_stop(self) -> bool:
        """Return whether to leave the loop before the next step."""
        ...
