"""The loop that drives a search over many samples with full batches.

A sample leaves its slot in the step in which it falls, and the slot goes to the next sample waiting; when none waits,
the last slot's state is copied into the hole, so that the model always sees one dense batch. Nothing else is
moved from step to step.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.search.slots import Answer, Batch, Rows, Search, copy_rows
from robustbench_gkl.core.device import TensorCores
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise

Precision = Literal["float32", "tf32", "bf16"]

_PAUSE = 0.01
"""Seconds between two looks for runs where none is under way here."""
_SPLIT = 0.25
"""The share of slots that must need no gradient for asking about them apart: a second, smaller batch costs time too."""


class Task(NamedTuple):
    """One run of one sample; earlier runs come first."""

    run: int
    position: int


@dataclass(frozen=True)
class Load:
    """Samples as an attack needs them.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1] on the device.
        labels: (B,) int64.
        noise: their random numbers.
    """

    images: Tensor
    labels: Tensor
    noise: Noise


class Source(Protocol):
    """Where the driver finds the runs to do; several drivers may share one."""

    def take(self, free: int, held: int) -> list[Task]:
        """Return at most ``free`` runs to begin; ``held`` are under way already."""
        ...

    def settle(self, later: Sequence[Task], through: int) -> None:
        """Take runs to be done later, and hear how many samples are through with their last one."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether no run will ever come again."""
        ...


class Waiting:
    """The runs that wait for a driver that shares them with none; earlier ones come first."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = sorted(tasks)

    def take(self, free: int, held: int) -> list[Task]:
        """Return the next runs."""
        return [heapq.heappop(self._tasks) for _ in range(min(free, len(self._tasks)))]

    def settle(self, later: Sequence[Task], through: int) -> None:
        """Put runs in line."""
        for task in later:
            heapq.heappush(self._tasks, task)

    @property
    def exhausted(self) -> bool:
        """Whether none waits."""
        return not self._tasks


class Samples(Protocol):
    """Where the driver finds its samples; positions are integers from 0."""

    def load(self, positions: Sequence[int]) -> Load:
        """Return the samples at ``positions``."""
        ...

    def ranking(self, positions: Sequence[int]) -> Tensor:
        """Return (B, K - 1): the classes but the label, by falling logit of the unattacked image."""
        ...


class Referee(Protocol):
    """Who decides what counts."""

    def confirm(self, positions: Sequence[int], points: Tensor) -> np.ndarray:
        """Return (B,) bool: whether each point is a success against the sample at its position."""
        ...

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        """Hear which runs are over: fruitless ones, with their last points, and those that ended in a success."""
        ...

    def should_stop(self) -> bool:
        """Return whether to leave the loop before the next step."""
        ...


def ask(
    search: Search, model: Model, rows: Rows, *, gradient: bool, context: AbstractContextManager[object]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return logits, objective and gradient at the query points of ``rows``; without ``gradient`` only the logits."""
    points = search.query[rows.device].detach()
    if not gradient:
        with torch.no_grad(), context:
            return model(points).float(), None, None
    points.requires_grad_()
    total: Tensor | None = None
    for _ in range(search.evaluations):
        with torch.enable_grad():
            with context:
                logits = model(points)
            logits = logits.float()
            value, slope = search.slope(rows, logits, points)
        total = slope if total is None else total.add_(slope)
    assert total is not None
    if search.evaluations > 1:
        total /= search.evaluations
    return logits.detach(), value, total


def _fetched(logits: Tensor, slope: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (B, K) on the host, and (B,) bool: which gradients hold NaN or infinite values.

    Both come in one transfer. A sum over finite values can overflow: the few gradients whose sum is not finite are
    looked at value by value.
    """
    if slope is None:
        return logits.cpu().numpy(), np.zeros(len(logits), dtype=bool)
    both = torch.cat([logits, slope.flatten(1).sum(1, keepdim=True)], 1).cpu().numpy()
    broken = ~np.isfinite(both[:, -1])
    if broken.any():
        rows = torch.from_numpy(broken.nonzero()[0]).to(slope.device)
        broken[broken] = (~slope[rows].isfinite()).flatten(1).any(1).cpu().numpy()
    return both[:, :-1], broken


def precision_context(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the model runs while searching."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return TensorCores(allowed=True) if precision == "tf32" else contextlib.nullcontext()


class _LastWrong:
    """The last misclassified query point of each slot, for models whose answers are random.

    Where a step asks several times, the model is expected to be random, and among a hundred answers one may be wrong by
    luck. Such a run is judged at its end, by asking again at the last point that was misclassified, as in pyautoattack.
    """

    def __init__(self, like: Tensor) -> None:
        self._points = torch.zeros_like(like)
        self.known = np.zeros(len(like), dtype=bool)

    def keep(self, slots: np.ndarray, query: Tensor) -> None:
        """Note that the query points of ``slots`` are misclassified."""
        copy_rows(self._points, query, torch.from_numpy(slots).to(query.device))
        self.known[slots] = True

    def move(self, source: int, target: int) -> None:
        """Copy one slot's state over another's."""
        self._points[target] = self._points[source]
        self.known[target] = self.known[source]

    def still_wrong(self, slots: np.ndarray, search: Search, model: Model) -> tuple[np.ndarray, Tensor]:
        """Return those of ``slots`` whose points are misclassified again, and the points."""
        rows = torch.from_numpy(slots).to(self._points.device)
        points = self._points[rows]
        wrong = model(points).argmax(1) != search.labels[rows]
        return slots[wrong.cpu().numpy()], points[wrong]


class Driver:
    """One attack on many samples.

    Args:
        search: the attack's state.
        model: images to logits.
        samples: where the samples are.
        referee: decides what counts, and hears of each run that is over.
        runs: how many runs a sample has.
        name: of the attack, which its random numbers belong to.
        targeted: whether each run has its own target, the runner-up of that rank.
        precision: in which the model runs while searching; the referee's check is its own affair.
    """

    def __init__(
        self,
        search: Search,
        model: Model,
        samples: Samples,
        referee: Referee,
        *,
        runs: int,
        name: str,
        targeted: bool = False,
        precision: Precision = "float32",
    ) -> None:
        self.search, self.model, self.samples, self.referee = search, model, samples, referee
        self.runs, self.name, self.targeted, self.precision = runs, name, targeted, precision
        self.context = precision_context(precision, search.space.device)
        self.doubtful: dict[int, int] = {}
        """Samples (and their run) whose success in low precision was not confirmed; to be searched in float32."""
        self.nonfinite = 0
        """Gradients with NaN or infinite values under finite logits, so far; where they are such, they count as 0."""
        self._late = _LastWrong(search.query) if search.evaluations > 1 else None
        # Random numbers pass through 64-bit types: all starts at once would take more memory than the search.
        self._starts = -(-search.space.slots // 8)
        self._tasks: list[Task] = []

    def run(self, source: Source) -> bool:
        """Do the runs of ``source`` until it is exhausted.

        Returns:
            Whether all is done; False where the referee wanted to stop.
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
    def progress(self) -> float:
        """How far the runs in slots have come, in runs."""
        return float(self.search.step[: len(self._tasks)].sum()) / self.search.length

    def _fill(self, free: Sequence[int]) -> int:
        """Give the next runs to the slots ``free``, as far as there are any; return how many got one."""
        held = len(self._tasks) - sum(slot < len(self._tasks) for slot in free)
        tasks = self._source.take(len(free), held) if free else []
        by_run: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for slot, task in zip(free, tasks, strict=False):
            by_run[task.run].append((slot, task.position))
            self._tasks[slot : slot + 1] = [task]
        for run, pairs in by_run.items():
            for start in range(0, len(pairs), self._starts):
                self._begin(run, pairs[start : start + self._starts])
        return len(tasks)

    def _begin(self, run: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Start a run of the samples at some positions in slots, given as pairs of slot and position."""
        chosen, positions = (list(part) for part in zip(*pairs, strict=True))
        rows = Rows.of(np.array(chosen), self.search.space.device)
        load = self.samples.load(positions)
        target = None
        if self.targeted:
            target = self.samples.ranking(positions)[:, run].to(load.labels.device)
        self.search.labels[rows.device] = load.labels
        self.search.finished[rows.host] = False
        if self._late is not None:
            self._late.known[rows.host] = False
        noise = load.noise.at(self.name, run)
        self.search.begin(rows, Batch(load.images, load.labels, target, noise, run))

    def _groups(self) -> list[tuple[Rows, bool]]:
        """Return the rows to ask about, and whether with gradients."""
        count = len(self._tasks)
        wants = self.search.wants_gradient[:count]
        some, without = bool(wants.any()), count - int(wants.sum())
        if not (self.search.splits and some and without >= _SPLIT * count):
            return [(Rows.first(count), some)]
        device = self.search.space.device
        return [(Rows.of(wants.nonzero()[0], device), True), (Rows.of((~wants).nonzero()[0], device), False)]

    def _step(self) -> None:
        """Ask about every slot once, then retire and refill."""
        search = self.search
        fallen: list[int] = []
        doubted: list[int] = []
        for rows, gradient in self._groups():
            search.prepare(rows)
            logits, value, slope = ask(search, self.model, rows, gradient=gradient, context=self.context)
            with torch.no_grad():
                # On the host, where all decisions fall: a few numbers a sample cost less to fetch than to judge there.
                answer, broken = _fetched(logits, slope)
                usable = np.isfinite(answer).all(1)
                if not usable.all():
                    raise UserError(
                        f"the model gives NaN or infinite logits for {int((~usable).sum())} of {len(answer)} images "
                        f"under attack by {self.name}; robustness cannot be judged: look at its layers and its range"
                    )
                if slope is not None and broken.any():
                    self.nonfinite += int(broken.sum())
                    slope.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
                wrong = answer.argmax(1) != search.labels[rows.device].cpu().numpy()
                hits = search.counts(rows, wrong) if wrong.any() else wrong
                if hits.any():
                    self._hits(rows.where(hits), fallen, doubted)
                search.advance(rows, Answer(logits, wrong, value, slope))
        if self._late is not None:
            over = (search.finished & self._late.known)[: len(self._tasks)].nonzero()[0]
            if len(over):
                with torch.no_grad(), self.context:
                    slots, points = self._late.still_wrong(over, search, self.model)
                self._confirm(slots, points, fallen, doubted)
        self._retire(fallen, doubted)

    def _hits(self, slots: np.ndarray, fallen: list[int], doubted: list[int]) -> None:
        """Judge the query points of ``slots``, now or at the end of the run."""
        if self._late is not None:
            self._late.keep(slots, self.search.query)
            return
        points = self.search.query[torch.from_numpy(slots).to(self.search.space.device)]
        self._confirm(slots, points, fallen, doubted)

    def _confirm(self, slots: np.ndarray, points: Tensor, fallen: list[int], doubted: list[int]) -> None:
        """Add those of ``slots`` whose ``points`` are successes to ``fallen``.

        Those that are none were found in low precision, or lie within rounding of the boundary: the former are
        ``doubted``, the latter searched on.
        """
        if not len(slots):
            return
        positions = [self._tasks[slot].position for slot in slots]
        accepted = self.referee.confirm(positions, points)
        fallen += slots[accepted].tolist()
        if self.precision != "float32":
            doubted += slots[~accepted].tolist()

    def _retire(self, fallen: Sequence[int], doubted: Sequence[int]) -> None:
        """Take the fallen, the doubted and the finished out of their slots, and close the gaps."""
        search, tasks = self.search, self._tasks
        out = {*fallen, *doubted}
        done = [slot for slot in search.finished[: len(tasks)].nonzero()[0].tolist() if slot not in out]
        if not out and not done:
            return
        left = search.leftover(Rows.of(np.array(done), search.space.device)) if done else None
        self.referee.over([tasks[slot] for slot in done], [tasks[slot] for slot in fallen], left)
        self.doubtful.update((tasks[slot].position, tasks[slot].run) for slot in doubted)
        free = sorted(out.union(done))
        later = [Task(run + 1, position) for run, position in map(tasks.__getitem__, done) if run + 1 < self.runs]
        self._source.settle(later, len(free) - len(later))
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
