"""One attack of an evaluation on the samples that still stand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks import Attack
from robustbench_gkl.attacks.driver import Driver, Precision, Task
from robustbench_gkl.attacks.native import SearchAttack
from robustbench_gkl.attacks.search import Space
from robustbench_gkl.evaluation.outcome import Evaluation, Progress
from robustbench_gkl.results.record import StageResult

if TYPE_CHECKING:
    from robustbench_gkl.evaluation.engine import Run

_TELL_EVERY = 0.2
"""Seconds between two reports of progress."""
_SQUEEZED = 1.1
"""By how much a batch may grow where all that is left then fits into one."""


class Stage:
    """Runs one attack, judges what it finds, and keeps the journal.

    A journal entry has the runs that ended without a success (``done``, pairs of position and run), the positions that
    fell, and what it took since the entry before. It is written as soon as a run is over.

    Args:
        run: the evaluation that this is a part of.
        attack: what to run.
        name: what the verdicts say broke a sample.
        key: names the stage in the journal.
        result: takes the verdicts.
    """

    def __init__(self, run: Run, attack: Attack, *, name: str, key: str, result: Evaluation) -> None:
        self.run_, self.attack, self.name, self.key, self.result = run, attack, name, key, result
        self.totals: dict[str, float] = {"rejected": 0, "seconds": 0.0, "forwards": 0, "backwards": 0}
        self._verdicts: dict[int, tuple[int, float]] = {}
        self._rejected = 0
        self._runs, self._runs_over = 1, 0
        self._active: Driver | None = None
        self._told = time.perf_counter()
        self._mark()
        self._begin(None)

    def run(self) -> StageResult:
        """Attack what stands; what the journal holds is taken from there."""
        standing = np.flatnonzero(self.result.standing).tolist()
        self.attacked = self._standing_before = len(standing)
        left = self._replay(dict.fromkeys(standing, 0))
        if isinstance(self.attack, SearchAttack):
            whole = self._search(self.attack, left)
        else:
            whole = self._in_batches(list(left))
        self.result.partial = not whole
        self._tell(force=True)
        return StageResult(
            name=self.name,
            attacked=self.attacked,
            broken=self.attacked - int(self.result.standing[standing].sum()),
            rejected=int(self.totals["rejected"]),
            seconds=round(self.totals["seconds"], 3),
            forwards=int(self.totals["forwards"]),
            backwards=int(self.totals["backwards"]),
        )

    def _replay(self, first_run: dict[int, int]) -> dict[int, int]:
        """Apply what the journal holds, and return what is left: the samples, and the run that each is at."""
        journal = self.run_.journal
        for entry in journal.entries if journal is not None else ():
            if entry.get("stage") != self.key:
                continue
            self._apply(entry)
            for position in entry["fallen"]:
                first_run.pop(position, None)
            for position, run in entry["done"]:
                first_run[position] = max(run + 1, first_run[position])
        return first_run

    def _search(self, attack: SearchAttack, first_run: dict[int, int]) -> bool:
        """Drive our own attack; return whether it came to its end."""
        classes = self.result.num_classes
        self._runs = attack.runs(self.run_.threat, num_classes=classes)
        self._runs_over = sum(first_run.values()) + self._runs * (self.attacked - len(first_run))
        driver = self._driver(attack, len(first_run), self.run_.precision)
        self._begin(driver)
        if not driver.run(first_run):
            return False
        if driver.doubtful:
            again = self._driver(attack, len(driver.doubtful), "float32")
            self._begin(again)
            return again.run(driver.doubtful)
        return True

    def _begin(self, driver: Driver | None) -> None:
        """Note where the pace is measured from."""
        self._active = driver
        meter = self.run_.meter
        self._start = (time.perf_counter(), meter.forwards + meter.backwards, self._runs_over)

    def _driver(self, attack: SearchAttack, samples: int, precision: Precision) -> Driver:
        run = self.run_
        shape = (run.images.shape[1], run.images.shape[2], run.images.shape[3])
        # A few samples more than a batch would cost a second pass of nearly empty batches.
        slots = max(1, samples if samples <= _SQUEEZED * run.batch_size else run.batch_size)
        space = Space(slots, shape, self.result.num_classes, run.threat, run.device)
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

    def _in_batches(self, positions: list[int]) -> bool:
        """Run another package's attack batch by batch; return whether it came to its end."""
        self._runs_over = self.attacked - len(positions)
        self._begin(None)
        for start in range(0, len(positions), self.run_.batch_size):
            if self.run_.out_of_time:
                return False
            batch: list[int] = positions[start : start + self.run_.batch_size]
            load = self.run_.load(batch)
            candidates = self.attack(self.run_.meter, load.images, load.labels, self.run_.threat, noise=load.noise)
            if candidates.shape != load.images.shape:
                raise RuntimeError(
                    f"{self.attack.name} returned {tuple(candidates.shape)} for images {tuple(load.images.shape)}"
                )
            broken = self.confirm(batch, candidates.detach().float())
            tasks = [Task(0, position) for position in batch]
            stood = [task for task, fell in zip(tasks, broken, strict=True) if not fell]
            self.over(stood, [task for task, fell in zip(tasks, broken, strict=True) if fell], None)
        return True

    @torch.no_grad()
    def confirm(self, positions: Sequence[int], points: Tensor) -> np.ndarray:
        """Return (B,) bool: which points are allowed, and misclassified when predicted afresh in float32."""
        run = self.run_
        load = run.load(positions)
        allowed = run.threat.contains(points, load.images)
        points = torch.where(allowed[:, None, None, None], points, load.images)
        prediction = run.meter(points).argmax(1)
        broken: np.ndarray = (allowed & (prediction != load.labels)).cpu().numpy()
        self._rejected += int((~allowed).sum())
        distance = run.threat.distance(points, load.images).tolist()
        for place in broken.nonzero()[0].tolist():
            self._verdicts[positions[place]] = (int(prediction[place]), distance[place])
            if run.adversarial is not None:
                run.adversarial[positions[place]] = points[place].cpu()
        return broken

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        """Write down which runs are over."""
        verdicts = [self._verdicts.pop(task.position) for task in fallen]
        meter = self.run_.meter
        entry: dict[str, Any] = {
            "stage": self.key,
            "done": [(task.position, task.run) for task in done],
            "fallen": [task.position for task in fallen],
            "adv_pred": [prediction for prediction, _ in verdicts],
            "distance": [distance for _, distance in verdicts],
            "rejected": self._rejected,
            "seconds": time.perf_counter() - self._marked[0],
            "forwards": meter.forwards - self._marked[1],
            "backwards": meter.backwards - self._marked[2],
        }
        self._mark()
        self._runs_over += len(done) + sum(self._runs - task.run for task in fallen)
        if self.run_.journal is not None:
            self.run_.journal.append(entry)
        self._apply(entry)
        self._tell()

    def should_stop(self) -> bool:
        """Return whether time is up; report progress on the way."""
        self._tell()
        return self.run_.out_of_time

    def _mark(self) -> None:
        self._rejected = 0
        self._marked = (time.perf_counter(), self.run_.meter.forwards, self.run_.meter.backwards)

    def _apply(self, entry: dict[str, Any]) -> None:
        fallen, result = entry["fallen"], self.result
        result.broken_by[fallen] = self.name
        result.adv_pred[fallen] = entry["adv_pred"]
        result.distance[fallen] = entry["distance"]
        for key in self.totals:
            self.totals[key] += entry[key]

    def _tell(self, *, force: bool = False) -> None:
        now = time.perf_counter()
        if self.run_.on_progress is None or not (force or now - self._told >= _TELL_EVERY):
            return
        self._told = now
        meter, result = self.run_.meter, self.result
        standing = int(result.standing.sum())
        began, calls, over = self._start
        seconds = max(now - began, 1e-9)
        reached = self._runs_over + (self._active.progress if self._active is not None else 0)
        left = seconds * (self._runs * self.attacked - reached) / (reached - over) if reached > over else None
        self.run_.on_progress(
            Progress(
                stage=self.name,
                done=min(int(reached / self._runs), self.attacked),
                total=self.attacked,
                standing=standing,
                n=result.n,
                fallen=self._standing_before - standing,
                calls_per_second=(meter.forwards + meter.backwards - calls) / seconds,
                seconds_left=left,
            )
        )
