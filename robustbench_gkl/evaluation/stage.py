"""One stage of an attack on the samples that still stand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks import SearchSpec
from robustbench_gkl.attacks.search.compiled import with_kernels
from robustbench_gkl.attacks.search.driver import Driver, Precision, Task
from robustbench_gkl.attacks.search.slots import Space
from robustbench_gkl.attacks.search.tasks import InOrder, Referee, Source
from robustbench_gkl.attacks.search.threads import driver_count, run_together
from robustbench_gkl.core.device import sent
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.apart import Away, processes_for, run_apart
from robustbench_gkl.evaluation.candidates import Judgement, judge
from robustbench_gkl.evaluation.context import Context
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.pace import Pace
from robustbench_gkl.evaluation.replay import StageLog
from robustbench_gkl.results.record import StageResult

_LISTEN_EVERY = 1.0
"""Seconds between two looks whether another rank has failed."""
_SQUEEZED = 1.1
"""By how much a batch may grow where all that is left then fits into one."""
_UNDIFFERENTIATED = 4
"""Batches that take no more memory than one with gradients, which holds what all layers give, not two or three."""
_Result = TypeVar("_Result")


def run_stage(context: Context, log: StageLog, result: Evaluation) -> StageResult:
    """Attack what stands in ``result`` by the stage of ``log``; what the journal holds already is not done again.

    A journal entry is written as soon as a restart is over, see :class:`~robustbench_gkl.evaluation.replay.StageLog`.
    Several ranks share the restarts, see :class:`~robustbench_gkl.evaluation.sharing.Pool`; at the end of the stage
    they exchange what they found, so that all go into the next one alike.

    Args:
        context: the evaluation.
        log: what to run, and what the journal says of it.
        result: takes the verdicts, and whether the stage was stopped by the deadline.
    """
    standing = np.flatnonzero(result.standing & context.mine)
    stage = _Stage(context, log, result)
    left = log.replay(context.entries, standing.tolist(), result)
    stage.pace.attack(
        attacked=len(standing),
        standing=int((result.standing & context.mine).sum()),
        done=sum(left.values()) + log.runs * (len(standing) - len(left)),
    )
    whole = stage.search(left) if isinstance(log.attack, SearchSpec) else stage.propose(left)
    result.partial = not stage.exchange(whole)
    stage.pace.report(force=True)
    return log.result(attacked=len(standing), broken=len(standing) - int(result.standing[standing].sum()))


class _Stage:
    """Gives the restarts of a stage to drivers, verifies their candidates and keeps the journal.

    Drivers in several threads call :meth:`confirm`, :meth:`over` and :meth:`should_stop`; for those in processes see
    :mod:`robustbench_gkl.evaluation.apart`.
    """

    def __init__(self, context: Context, log: StageLog, result: Evaluation) -> None:
        self.context, self.log, self.result = context, log, result
        self.pace = Pace(context, name=log.name, restarts=log.runs)
        self._news: list[dict[str, Any]] = []
        self._verdicts: dict[int, dict[int, tuple[int, float, Tensor]]] = {}  # by position and run
        self._drivers: Sequence[Driver | Away] = ()
        self._nonfinite = 0
        self._left: dict[int, int] = {}
        self._ends: InOrder | None = None
        self._lock, self._stopped = threading.RLock(), threading.Event()
        self._listened = time.perf_counter()
        self._mark()

    def search(self, left: dict[int, int]) -> bool:
        """Drive our own attack from the restarts ``left``, by position; return whether it came to its end.

        Successes of a search in low precision that float32 does not confirm are searched again in float32.
        """
        doubtful, whole = self._drive(left, self.context.precision)
        if self.context.precision == "float32":
            return whole
        told = self.context.share.exchange.gather((whole, sorted(doubtful.items())))
        doubtful = {position: restart for _, pairs in told for position, restart in pairs}
        if not all(ended for ended, _ in told):
            return False
        return not doubtful or self._drive(doubtful, "float32")[1]

    def _drive(self, left: dict[int, int], precision: Precision) -> tuple[dict[int, int], bool]:
        """Do the restarts left; return the doubtful ones (see :class:`Driver`), and whether all came to their end."""
        return self._within_memory(left, lambda: self._driven(precision))

    def _within_memory(self, left: dict[int, int], work: Callable[[], _Result]) -> _Result:
        """Return what ``work`` on the restarts ``left`` gives, with smaller batches where memory runs out."""
        self._left = dict(left)
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                self._halve(error)
            self._drivers = ()
            self.pace.begin(())  # it holds them too, and they their slots
            torch.cuda.empty_cache()  # only here, where the error is gone with all that its frames held

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        """Go on with half the batch size, from now on.

        Raises:
            UserError: it was given, or is 1 already, or others share the work.
        """
        context, size = self.context, self.result.batch_size
        if not context.shrinks or size == 1 or context.share.exchange.world.size > 1:
            raise UserError(
                f"out of memory with {size} images at a time in {self.log.name}; give a smaller --batch-size"
            ) from error
        self.result.batch_size = size // 2
        if context.journal is not None:
            context.journal.append({"batch_size": size // 2})
        self._stopped.clear()  # set by the driver that failed

    def _driven(self, precision: Precision) -> tuple[dict[int, int], bool]:
        left = dict(self._left)
        context, ranks, runs = self.context, self.context.share.exchange.world.size, self.log.runs
        attack = self.log.attack
        assert isinstance(attack, SearchSpec)
        # A doubtful success ends a sample's search in low precision, whatever its other runs find.
        at_once = ranks == 1 and precision == "float32" and runs > 1
        rows = len(left) * (runs - 1) if at_once else -(-len(left) // ranks)
        alone, fitting = ranks == 1 and not context.meter.compiled, min(rows, self.result.batch_size)
        space = Space(len(left), context.samples.shape, self.result.num_classes, context.threat, context.samples.device)
        build = partial(self._driver, with_kernels(space, attack), rows, precision)
        tasks = [Task(number, position) for position, number in left.items()]
        source = partial(context.share.source, tasks, runs=runs, at_once=at_once)
        self._nonfinite, self._ends = 0, InOrder(left) if at_once else None
        device = context.samples.device
        apart = processes_for(context.meter.model, device, fitting) if alone else 1
        whole = self._driven_apart(build, source(drivers=apart), apart) if apart > 1 else None
        if whole is None:
            count = driver_count(device, fitting) if alone else 1
            self._drivers = drivers = [build(self, of=count) for _ in range(count)]
            self.pace.begin(drivers)
            whole = run_together(drivers, source(drivers=count), stop=self._stopped.set)
        if self._ends is not None and (early := self._ends.early()):  # earlier runs were stopped
            self._write((), early)
        return {position: number for driver in self._drivers for position, number in driver.doubtful.items()}, whole

    def _driven_apart(self, build: Callable[..., Driver], source: Source, count: int) -> bool | None:
        """Do the tasks of ``source`` in ``count`` processes; return whether all are done, None if that cannot be."""
        self._drivers = away = [Away() for _ in range(count)]
        self.pace.begin(away)
        return run_apart(partial(build, of=count), away, source, self.context, self)

    def _driver(self, space: Space, rows: int, precision: Precision, referee: Referee, *, of: int) -> Driver:
        """Return one of ``of`` drivers, which share the batch size and ``rows``, as many as there may be at a time."""
        context, attack = self.context, self.log.attack
        assert isinstance(attack, SearchSpec)
        # A few samples more than a batch would cost a second pass of nearly empty batches.
        size = self.result.batch_size
        slots = max(1, rows if rows <= _SQUEEZED * size else size)
        if attack.looks_ahead:
            slots = max(slots, min(of, _UNDIFFERENTIATED) * size)
        return Driver(
            attack.search(replace(space, slots=-(-slots // of))),
            context.meter.search,
            context,
            referee,
            name=attack.name,
            targeted=attack.targeted,
            precision=precision,
        )

    def propose(self, left: dict[int, int]) -> bool:
        """Run an attack that is no search batch by batch; return whether it came to its end."""
        return self._within_memory(left, self._proposed)

    def _proposed(self) -> bool:
        self._drivers, self._nonfinite = (), 0
        self.pace.begin(())
        positions, size = list(self._left), self.result.batch_size
        source = self.context.share.source(Task(0, start) for start in range(0, len(positions), size))
        while batches := source.take(1, 0):
            if self.should_stop():
                return False
            self._propose_batch(positions[batches[0].position :][:size])
        return True

    def _propose_batch(self, batch: list[int]) -> None:
        context, attack = self.context, self.log.attack
        load = context.load(batch)
        labels = sent(load.labels, load.images.device)
        candidates = attack(context.meter, load.images, labels, context.threat, noise=load.noise)
        if candidates.shape != load.images.shape:
            raise RuntimeError(
                f"{attack.name} returned {tuple(candidates.shape)} for images {tuple(load.images.shape)}"
            )
        if attack.returns_failures:
            self._unmoved += int((candidates == load.images).flatten(1).all(1).sum())
        tasks = [Task(0, position) for position in batch]
        broken = self.confirm(tasks, candidates.detach().float())
        stood = [task for task, fell in zip(tasks, broken, strict=True) if not fell]
        self.over(stood, [task for task, fell in zip(tasks, broken, strict=True) if fell], None)

    def exchange(self, whole: bool) -> bool:
        """Take in what other ranks found; return whether all came to their end."""
        exchange = self.context.share.exchange
        self.pace.end()
        told = exchange.gather((whole, self._news))
        for rank, (_, news) in enumerate(told):
            for entry in news if rank != exchange.world.rank else ():
                self.log.take_in(entry, self.result)
        return all(ended for ended, _ in told)

    def confirm(self, tasks: Sequence[Task], points: Tensor) -> np.ndarray:
        """Return (B,) bool: which points (B, C, H, W) are allowed, and misclassified when predicted anew in float32."""
        with self._lock:
            judgement = judge(self.context, tasks, points)
            self.take_in(judgement)
            return judgement.broken

    def take_in(self, judgement: Judgement) -> None:
        """Note what became of some candidates, until their restarts are over."""
        self._rejected += judgement.rejected
        self._candidates += len(judgement.broken)
        for task, *verdict, image in zip(
            judgement.tasks, judgement.prediction, judgement.distance, judgement.images, strict=True
        ):
            if task.position in self._left:  # else it has fallen to an earlier run
                runs = self._verdicts.setdefault(task.position, {})
                runs[task.run] = (int(verdict[0]), float(verdict[1]), image)

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        """Write down which restarts are over."""
        with self._lock:
            if self._ends is not None:
                done, fallen = self._ends.sorted(done, fallen)
            self._write(done, fallen)

    def _write(self, done: Sequence[Task], fallen: Sequence[Task]) -> None:
        verdicts = [self._verdicts.pop(task.position)[task.run] for task in fallen]
        if fallen:
            images = torch.stack([image for _, _, image in verdicts])
            self.context.keep(self.result, np.array([task.position for task in fallen]), images)
        self._left.update((task.position, task.run + 1) for task in done)
        for task in (*fallen, *(task for task in done if task.run + 1 >= self.log.runs)):
            self._left.pop(task.position, None)
        meter = self.context.meter
        entry: dict[str, Any] = {
            "stage": self.log.key,
            "done": [(task.position, task.run) for task in done],
            "fallen": [task.position for task in fallen],
            "adv_pred": [prediction for prediction, _, _ in verdicts],
            "distance": [distance for _, distance, _ in verdicts],
            "rejected": self._rejected,
            "candidates": self._candidates,
            "unmoved": self._unmoved,
            "nonfinite": self._nonfinite_since(),
            "seconds": time.perf_counter() - self._marked[0],
            "forwards": meter.forwards - self._marked[1],
            "backwards": meter.backwards - self._marked[2],
            "part": self.context.part,
        }
        self._mark()
        if self.context.journal is not None:
            self.context.journal.append(entry)
        self.log.take_in(entry, self.result)
        self._news.append({**entry, "done": []})
        restarts = len(done) + sum(self.log.runs - task.run for task in fallen)
        self.pace.add(restarts=restarts, fallen=len(fallen), calls=entry["forwards"] + entry["backwards"])
        self.pace.report()

    def _nonfinite_since(self) -> int:
        """Return how many gradients were not finite since the entry before; those of other packages are not seen."""
        before, self._nonfinite = self._nonfinite, sum(driver.nonfinite for driver in self._drivers)
        return self._nonfinite - before

    def _mark(self) -> None:
        """Begin to count for the next journal entry."""
        self._rejected = self._candidates = self._unmoved = 0
        meter = self.context.meter
        self._marked = (time.perf_counter(), meter.forwards, meter.backwards)
        self.pace.mark()

    def should_stop(self) -> bool:
        """Return whether time is up, or the stage was stopped; reports progress and looks at other ranks on the way."""
        with self._lock:
            self.pace.report()
            now = time.perf_counter()
            if now - self._listened >= _LISTEN_EVERY:
                self._listened = now
                self.context.share.exchange.listen()
            return self.context.out_of_time or self._stopped.is_set()
