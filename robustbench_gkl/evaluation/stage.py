"""One attack of an evaluation on the samples that still stand."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks import SearchSpec
from robustbench_gkl.attacks.search.driver import Driver, Precision, Task
from robustbench_gkl.attacks.search.slots import Space
from robustbench_gkl.attacks.search.threads import driver_count, run_together
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.progress import Progress
from robustbench_gkl.evaluation.replay import StageLog
from robustbench_gkl.evaluation.sharing import Tally
from robustbench_gkl.results.record import StageResult

if TYPE_CHECKING:
    from robustbench_gkl.evaluation.engine import Run

_TELL_EVERY = 0.2
"""Seconds between two reports of progress."""
_HEAR_EVERY = 1.0
"""Seconds between two looks whether another rank has failed."""
_SQUEEZED = 1.1
"""By how much a batch may grow where all that is left then fits into one."""


class Stage:
    """Runs one attack, judges what it finds, and keeps the journal.

    A journal entry is written as soon as a run is over, see :class:`~robustbench_gkl.evaluation.replay.StageLog`.

    Several ranks share the runs, see :class:`~robustbench_gkl.evaluation.sharing.Pool`. At the end of the stage they
    tell each other what they found, so that all go into the next one alike.

    Args:
        run: the evaluation that this is a part of.
        log: what to run, and what the journal says of it.
        result: takes the verdicts.
    """

    def __init__(self, run: Run, log: StageLog, *, result: Evaluation) -> None:
        self.run_, self.log, self.attack, self.result = run, log, log.attack, result
        self._news: list[dict[str, Any]] = []
        self._verdicts: dict[int, tuple[int, float]] = {}
        self._rejected = self._candidates = self._unmoved = 0
        self.attacked = self._standing = 0
        self._runs, self._runs_before = log.runs, 0
        self._tally = Tally(run.share.exchange)
        self._active: Sequence[Driver] = ()
        self._lock, self._stopped = threading.RLock(), threading.Event()
        self._told = self._heard = time.perf_counter()
        self._mark()
        self._begin(())

    def run(self) -> StageResult:
        """Attack what stands; what the journal holds is taken from there."""
        run = self.run_
        standing = np.flatnonzero(self.result.standing & run.mine)
        self.attacked = len(standing)
        left = self.log.replay(run.entries, standing.tolist(), self.result)
        self._runs_before = sum(first for first in left.values()) + self._runs * (self.attacked - len(left))
        self._standing = int((self.result.standing & run.mine).sum())
        search = self._search if isinstance(self.attack, SearchSpec) else self._in_batches
        self.result.partial = not self._exchange(search(left))
        self._tell(force=True)
        return self.log.result(attacked=self.attacked, broken=self.attacked - int(self.result.standing[standing].sum()))

    def _exchange(self, whole: bool) -> bool:
        """Take in what other ranks found; return whether all came to their end."""
        exchange = self.run_.share.exchange
        told = exchange.gather((whole, self._news))
        for rank, (_, news) in enumerate(told):
            for entry in news if rank != exchange.world.rank else ():
                self.log.take_in(entry, self.result)
        return all(ended for ended, _ in told)

    def _search(self, left: dict[int, int]) -> bool:
        """Drive our own attack; return whether it came to its end."""
        attack, exchange = self.attack, self.run_.share.exchange
        assert isinstance(attack, SearchSpec)
        doubtful, whole = self._drive(attack, left, self.run_.precision)
        if self.run_.precision == "float32":
            return whole
        told = exchange.gather((whole, sorted(doubtful.items())))
        doubtful = {position: run for _, pairs in told for position, run in pairs}
        if not all(ended for ended, _ in told):
            return False
        return not doubtful or self._drive(attack, doubtful, "float32")[1]

    def _drive(self, attack: SearchSpec, left: dict[int, int], precision: Precision) -> tuple[dict[int, int], bool]:
        """Do the runs left; return the doubtful ones (see :class:`Driver`), and whether all came to their end."""
        run, ranks = self.run_, self.run_.share.exchange.world.size
        samples = -(-len(left) // ranks)
        alone = ranks == 1 and not run.meter.compiled
        count = driver_count(run.device, min(samples, run.batch_size)) if alone else 1
        drivers = [self._driver(attack, samples, precision, of=count) for _ in range(count)]
        self._begin(drivers)
        source = run.share.source(Task(number, position) for position, number in left.items())
        whole = run_together(drivers, source, samples=len(left), stop=self._stopped.set)
        return {position: number for driver in drivers for position, number in driver.doubtful.items()}, whole

    def _begin(self, drivers: Sequence[Driver]) -> None:
        """Note where the pace is measured from."""
        self._active, self._nonfinite = drivers, 0
        self._start = (time.perf_counter(), *self._reached())

    def _reached(self) -> tuple[float, int, int]:
        """Return the runs that are over, parts of them included, the samples that stand, and the calls made here."""
        runs, fallen, calls = self._tally.totals()
        meter = self.run_.meter
        under_way = sum(driver.progress for driver in self._active)
        since = meter.forwards + meter.backwards - sum(self._marked[1:])
        return self._runs_before + runs + under_way, self._standing - fallen, calls + since

    def _driver(self, attack: SearchSpec, samples: int, precision: Precision, *, of: int) -> Driver:
        """Return one of ``of`` drivers, which share samples and batch size."""
        run = self.run_
        shape = (run.images.shape[1], run.images.shape[2], run.images.shape[3])
        # A few samples more than a batch would cost a second pass of nearly empty batches.
        slots = max(1, samples if samples <= _SQUEEZED * run.batch_size else run.batch_size)
        space = Space(-(-slots // of), shape, self.result.num_classes, run.threat, run.device)
        return Driver(
            attack.search(space),
            run.meter.search,
            run,
            self,
            runs=self._runs,
            name=attack.name,
            targeted=attack.targeted,
            precision=precision,
        )

    def _in_batches(self, left: dict[int, int]) -> bool:
        """Run another package's attack batch by batch; return whether it came to its end."""
        self._begin(())
        positions, size = list(left), self.run_.batch_size
        source = self.run_.share.source(Task(0, start) for start in range(0, len(positions), size))
        while batches := source.take(1, 0):
            if self.should_stop():
                return False
            self._attack_batch(positions[batches[0].position :][:size])
        return True

    def _attack_batch(self, batch: list[int]) -> None:
        load = self.run_.load(batch)
        candidates = self.attack(self.run_.meter, load.images, load.labels, self.run_.threat, noise=load.noise)
        if candidates.shape != load.images.shape:
            raise RuntimeError(
                f"{self.attack.name} returned {tuple(candidates.shape)} for images {tuple(load.images.shape)}"
            )
        if self.attack.returns_failures:
            self._unmoved += int((candidates == load.images).flatten(1).all(1).sum())
        broken = self.confirm(batch, candidates.detach().float())
        tasks = [Task(0, position) for position in batch]
        stood = [task for task, fell in zip(tasks, broken, strict=True) if not fell]
        self.over(stood, [task for task, fell in zip(tasks, broken, strict=True) if fell], None)

    @torch.no_grad()
    def confirm(self, positions: Sequence[int], points: Tensor) -> np.ndarray:
        """Return (B,) bool: which points are allowed, and misclassified when predicted afresh in float32."""
        with self._lock:
            return self._confirmed(positions, points)

    def _confirmed(self, positions: Sequence[int], points: Tensor) -> np.ndarray:
        run = self.run_
        load = run.load(positions)
        allowed = run.threat.contains(points, load.images)
        points = torch.where(allowed[:, None, None, None], points, load.images)
        prediction = run.meter(points).argmax(1)
        broken: np.ndarray = (allowed & (prediction != load.labels)).cpu().numpy()
        self._rejected += int((~allowed).sum())
        self._candidates += len(positions)
        distance = run.threat.distance(points, load.images).tolist()
        for place in broken.nonzero()[0].tolist():
            self._verdicts[positions[place]] = (int(prediction[place]), distance[place])
        if broken.any():
            run.keep(self.result, np.asarray(positions)[broken], points[torch.from_numpy(broken).to(points.device)])
        return broken

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        """Write down which runs are over."""
        with self._lock:
            self._write(done, fallen)

    def _write(self, done: Sequence[Task], fallen: Sequence[Task]) -> None:
        verdicts = [self._verdicts.pop(task.position) for task in fallen]
        meter = self.run_.meter
        entry: dict[str, Any] = {
            "stage": self.log.key,
            "done": [(task.position, task.run) for task in done],
            "fallen": [task.position for task in fallen],
            "adv_pred": [prediction for prediction, _ in verdicts],
            "distance": [distance for _, distance in verdicts],
            "rejected": self._rejected,
            "candidates": self._candidates,
            "unmoved": self._unmoved,
            "nonfinite": self._nonfinite_since(),
            "seconds": time.perf_counter() - self._marked[0],
            "forwards": meter.forwards - self._marked[1],
            "backwards": meter.backwards - self._marked[2],
            "part": self.run_.part,
        }
        self._mark()
        if self.run_.journal is not None:
            self.run_.journal.append(entry)
        self.log.take_in(entry, self.result)
        self._news.append({**entry, "done": []})
        runs = len(done) + sum(self._runs - task.run for task in fallen)
        self._tally.add(runs, len(fallen), entry["forwards"] + entry["backwards"])
        self._tell()

    def _nonfinite_since(self) -> int:
        """Return how many gradients were not finite since the entry before; those of other packages are not seen."""
        before, self._nonfinite = self._nonfinite, sum(driver.nonfinite for driver in self._active)
        return self._nonfinite - before

    def should_stop(self) -> bool:
        """Return whether time is up; report progress, and hear of other ranks, on the way."""
        with self._lock:
            return self._hear()

    def _hear(self) -> bool:
        self._tell()
        now = time.perf_counter()
        if now - self._heard >= _HEAR_EVERY:
            self._heard = now
            self.run_.share.exchange.listen()
        return self.run_.out_of_time or self._stopped.is_set()

    def _mark(self) -> None:
        self._rejected = self._candidates = self._unmoved = 0
        self._marked = (time.perf_counter(), self.run_.meter.forwards, self.run_.meter.backwards)

    def _tell(self, *, force: bool = False) -> None:
        now = time.perf_counter()
        if self.run_.on_progress is None or not (force or now - self._told >= _TELL_EVERY):
            return
        self._told = now
        began, before, _, calls_before = self._start
        reached, standing, calls = self._reached()
        seconds = max(now - began, 1e-9)
        left = seconds * (self._runs * self.attacked - reached) / (reached - before) if reached > before else None
        self.run_.on_progress(
            Progress(
                stage=self.log.name,
                done=min(int(reached / self._runs), self.attacked),
                total=self.attacked,
                standing=standing,
                n=int(self.run_.mine.sum()),
                fallen=self.attacked - standing,
                calls_per_second=(calls - calls_before) / seconds,
                seconds_left=left,
            )
        )
