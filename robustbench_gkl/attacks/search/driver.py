"""The loop that drives a search over many samples with full batches.

A sample leaves its slot in the step in which it falls, and the slot goes to the next sample waiting; when none waits,
the last slot's state is copied into the hole, so that the model always gets one dense batch. Nothing else is
moved from step to step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.search.base import Search
from robustbench_gkl.attacks.search.queries import LastWrong, Precision, Queries
from robustbench_gkl.attacks.search.slots import Rows, Starts
from robustbench_gkl.attacks.search.tasks import Load, Referee, Samples, Source, Task, Waiting
from robustbench_gkl.core.device import sent

__all__ = ["Driver", "Load", "Precision", "Source", "Task", "Waiting"]

_PAUSE = 0.01
"""Seconds between two looks for tasks where none is under way here."""
_SPLIT = 0.25
"""The share of slots that must need no gradient for a batch of their own: a second, smaller batch costs time too."""


class Driver:
    """One attack on many samples.

    Args:
        search: the attack's state.
        model: images to logits.
        samples: the samples by position.
        referee: decides which points are successes; gets each run that is over.
        name: of the attack, which its random numbers belong to.
        targeted: whether each run has its own target, the runner-up of that rank.
        precision: of the model while searching; the referee chooses its own.

    Attributes:
        doubtful: samples (and their run) whose success in low precision was not confirmed; to be searched in float32.
    """

    def __init__(
        self,
        search: Search,
        model: Model,
        samples: Samples,
        referee: Referee,
        *,
        name: str,
        targeted: bool = False,
        precision: Precision = "float32",
    ) -> None:
        self.search, self.model, self.samples, self.referee = search, model, samples, referee
        self.name, self.targeted, self.precision = name, targeted, precision
        self.queries = Queries(search, model, name=name, precision=precision)
        self.doubtful: dict[int, int] = {}
        self._late = LastWrong(self.queries) if search.evaluations > 1 else None
        # Random numbers pass through 64-bit types: all starts at once would take more memory than the search.
        self._most_starts = -(-search.space.slots // 8)
        self._tasks: list[Task] = []

    def run(self, source: Source) -> bool:
        """Do the tasks of ``source`` until it is exhausted.

        Returns:
            Whether all are done; False where the referee stopped the loop.
        """
        self._source, self._tasks = source, []
        while True:
            count = len(self._tasks)
            self._fill(range(count, self.search.space.slots))
            if not self._tasks and source.exhausted:
                return True
            if self.referee.should_stop():
                return False
            if self._tasks:
                self._step()
            else:
                time.sleep(_PAUSE)

    @property
    def nonfinite(self) -> int:
        """How many gradients were not finite so far; see :class:`Queries`."""
        return self.queries.nonfinite

    @property
    def progress(self) -> float:
        """How far the runs in slots have come, in runs."""
        return float(self.search.step[: len(self._tasks)].sum()) / self.search.length

    def _fill(self, free: Sequence[int]) -> int:
        """Give the next tasks to the slots ``free``, as far as there are any; return how many got one."""
        held = len(self._tasks) - sum(slot < len(self._tasks) for slot in free)
        tasks = self._source.take(len(free), held) if free else []
        by_run: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for slot, task in zip(free, tasks, strict=False):
            by_run[task.run].append((slot, task.position))
            self._tasks[slot : slot + 1] = [task]
        for run, pairs in by_run.items():
            for start in range(0, len(pairs), self._most_starts):
                self._begin(run, pairs[start : start + self._most_starts])
        return len(tasks)

    def _begin(self, run: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Start a run of the samples at some positions in slots, given as pairs of slot and position."""
        chosen, positions = (list(part) for part in zip(*pairs, strict=True))
        device = self.search.space.device
        rows, load = Rows.of(np.array(chosen), device), self.samples.load(positions)
        self.search.host_labels[rows.host] = load.labels.numpy()
        self.search.labels[rows.device] = sent(load.labels, device)
        if self.targeted:
            self.search.targets[rows.device] = sent(self.samples.ranking(positions)[:, run], device)
        self.search.finished[rows.host] = False
        if self._late is not None:
            self._late.known[rows.host] = False
        self.search.begin(rows, Starts(load.images, load.noise.at(self.name, run), run))

    def _groups(self) -> list[tuple[Rows, bool]]:
        """Return the rows of each batch of the model, and whether they need gradients."""
        count = len(self._tasks)
        wants = self.search.wants_gradient[:count]
        some, without = bool(wants.any()), count - int(wants.sum())
        if not (self.search.splits and some and without >= _SPLIT * count):
            return [(Rows.first(self.search.rows(count)), some)]
        device = self.search.space.device
        return [(Rows.of(wants.nonzero()[0], device), True), (Rows.of((~wants).nonzero()[0], device), False)]

    def _step(self) -> None:
        """Evaluate the query point of every slot once, then retire and refill."""
        fallen: list[int] = []
        doubted: list[int] = []
        for rows, gradient in self._groups():
            with torch.no_grad():
                answer = self.queries.ask(rows, gradient=gradient)
                hits = self.search.counts(rows, answer) if answer.wrong.any() else answer.wrong
                if hits.any():
                    self._hits(rows.where(hits), fallen, doubted)
                self.search.advance(rows, answer)
        self._judge_late(fallen, doubted)
        self._retire(fallen, doubted)

    def _judge_late(self, fallen: list[int], doubted: list[int]) -> None:
        """Judge the runs of a random model that are finished and met a misclassified point."""
        if self._late is None:
            return
        over = (self.search.finished & self._late.known)[: len(self._tasks)].nonzero()[0]
        if len(over):
            slots, points = self._late.still_wrong(over)
            self._confirm(slots, points, fallen, doubted)

    def _hits(self, slots: np.ndarray, fallen: list[int], doubted: list[int]) -> None:
        """Judge the misclassified query points of ``slots`` (n,) int64, now or at the end of the run.

        A slot beyond those of the tasks stands for one of these, see :meth:`Search.rows`.
        """
        if self._late is not None:
            self._late.keep(slots)
            return
        points = self.search.query[sent(torch.from_numpy(slots), self.search.space.device)]
        self._confirm(slots % len(self._tasks), points, fallen, doubted)

    def _confirm(self, slots: np.ndarray, points: Tensor, fallen: list[int], doubted: list[int]) -> None:
        """Add those of ``slots`` (n,) int64 whose ``points`` (n, C, H, W) are successes to ``fallen``.

        The others were found in low precision, or lie within rounding of the boundary: the former are added to
        ``doubted``, the search of the latter goes on.
        """
        if not len(slots):
            return
        accepted = self.referee.confirm([self._tasks[slot] for slot in slots], points)
        fallen += slots[accepted].tolist()
        if self.precision != "float32":
            doubted += slots[~accepted].tolist()

    def _retire(self, fallen: Sequence[int], doubted: Sequence[int]) -> None:
        """Take the fallen, the doubted and the finished samples out of their slots, refill the slots or close them.

        Later runs of a sample that fell count no more.
        """
        search, tasks = self.search, self._tasks
        out = {*fallen, *doubted}
        if fallen:
            first = {position: run for run, position in sorted((tasks[slot] for slot in fallen), reverse=True)}
            out.update(slot for slot, (run, position) in enumerate(tasks) if run > first.get(position, run))
        done = [slot for slot in search.finished[: len(tasks)].nonzero()[0].tolist() if slot not in out]
        if not out and not done:
            return
        left = search.leftover(Rows.of(np.array(done), search.space.device)) if done else None
        self.referee.over([tasks[slot] for slot in done], [tasks[slot] for slot in fallen], left)
        self.doubtful.update((tasks[slot].position, tasks[slot].run) for slot in doubted)
        free = sorted(out.union(done))
        self._source.settle([tasks[slot] for slot in done], [tasks[slot] for slot in sorted(out)])
        refilled = self._fill(free)
        for slot in reversed(free[refilled:]):
            self._close(slot)

    def _close(self, slot: int) -> None:
        """Move the last slot's sample into ``slot``."""
        last = len(self._tasks) - 1
        if slot != last:
            self.search.move(last, slot)
            if self._late is not None:
                self._late.move(last, slot)
            self._tasks[slot] = self._tasks[last]
        self._tasks.pop()
