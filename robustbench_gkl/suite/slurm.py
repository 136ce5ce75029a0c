"""Suites on a Slurm cluster, through submitit: one task of a job array for each run with its evaluations."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.files import write_atomically
from robustbench_gkl.core.plugins import load_plugins
from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell
from robustbench_gkl.suite.ledger import Folders, Ledger, Outcome
from robustbench_gkl.suite.observer import Running, SuiteObserver
from robustbench_gkl.suite.partition import SlurmSettings
from robustbench_gkl.suite.process import CellProcess
from robustbench_gkl.suite.state import SuiteState

if TYPE_CHECKING:
    import submitit

_LARGEST_ARRAY = 1000
"""Tasks in one job array; clusters allow 1001 where nothing else was set up."""


class CellTask:
    """What a Slurm task does: its cells one after the other, those that are done left out.

    submitit pickles it, calls it on the node, and calls :meth:`checkpoint` before the time is up.
    """

    def __init__(self, name: str, folders: Folders, cells: Sequence[Cell], patience: float) -> None:
        self.name, self.folders, self.cells, self.patience = name, folders, tuple(cells), patience
        self._process: CellProcess | None = None

    def __call__(self) -> None:
        """Run the cells; how each ends is written down in the suite's folder."""
        load_plugins(self.folders.plugins)
        ledger = Ledger(self.name, self.folders)
        statuses = ledger.survey(self.cells_known())
        for cell in self.cells:
            if ledger.is_done(cell):
                ledger.keep(cell, _found(ledger, cell))
                continue
            if ledger.status(cell, statuses, retry=True) != "ready":
                return  # what it needs has failed, or was cut off
            outcome = self._run(cell, ledger)
            if outcome.status == "interrupted" or (outcome.status == "failed" and isinstance(cell, TrainCell)):
                return
            statuses[cell.key] = outcome.status

    def cells_known(self) -> list[Cell]:
        """Return the cells, each after the trainings that it needs, however far back."""
        known: dict[str, Cell] = {}

        def add(cell: Cell) -> None:
            for other in cell.after if isinstance(cell, TrainCell) else (cell.train,):
                if other is not None:
                    add(other)
            known.setdefault(cell.key, cell)

        for cell in self.cells:
            add(cell)
        return list(known.values())

    def _run(self, cell: Cell, ledger: Ledger) -> Outcome:
        threads = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1")}
        # Slurm sends USR2 to all processes of the task; only the one that called us is to act on it.
        self._process = CellProcess(cell, ledger, environment=threads, new_session=False, ignoring=[signal.SIGUSR2])
        try:
            while (outcome := self._process.poll()) is None:
                time.sleep(0.2)
        finally:
            self._process = None
        return outcome

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Let the running command save its state, and return what is to be queued again: the same."""
        import submitit

        if self._process is not None:
            self._process.stop()
            deadline = time.monotonic() + self.patience
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
            self._process = None
        return submitit.helpers.DelayedSubmission(self)


def _found(ledger: Ledger, cell: Cell) -> Outcome:
    """Return the outcome of a cell that was done when its turn came."""
    if isinstance(cell, TrainCell):
        return Outcome("done", 0, 0.0)
    record = ledger.record(cell)
    assert record is not None
    return Outcome("done", 0, 0.0, record=record.id, weights=record.model.weights_sha256)


class SlurmQueue:
    """The jobs of a suite, remembered in ``jobs.json``.

    Args:
        state: the suite.
        observer: called when a cell begins or ends.
        settings: of the partition.

    Raises:
        UserError: submitit or Slurm is not installed; a job that was queued before trains one of the suite's runs
            with other settings.
    """

    def __init__(self, state: SuiteState, observer: SuiteObserver, settings: SlurmSettings) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError("--launcher slurm needs the extra: pip install 'gklbench[slurm]'") from None
        self._state, self._observer, self._settings = state, observer, settings
        self._ledger = state.ledger
        self._name = self._ledger.folder.name
        try:
            self._executor = submitit.SlurmExecutor(self._ledger.folder / "slurm", max_num_timeout=settings.requeues)
        except RuntimeError:
            raise UserError("--launcher slurm: there is no srun here; use a login node or --launcher local") from None
        self._executor.update_parameters(**settings.parameters(self._name))
        self._path = self._ledger.folder / "jobs.json"
        self._jobs: dict[str, list[str]] = {}
        self._since: dict[str, float] = {}
        self._gone: set[str] = set()
        self._adopt()

    def _adopt(self) -> None:
        """Add the jobs of an earlier call that are still there."""
        try:
            before = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return
        states = queue_states()
        names = {self._state.ledger.name_of(cell) for cell in self._state.cells}
        for job, entry in before.items():
            if job not in states:
                continue
            if not set(entry["cells"]) <= self._state.by_key.keys() and names & set(entry["runs"]):
                raise UserError(f"job {job} still works on {entry['runs'][0]} with other settings; scancel {job} first")
            self._jobs[job] = [key for key in entry["cells"] if key in self._state.by_key]
            for key in self._jobs[job]:
                if self._state.statuses[key] in ("ready", "waiting"):
                    self._state.begin(self._state.by_key[key], "queued")

    def submit(self) -> int:
        """Queue all that is left, as job arrays, and return the number of tasks.

        What needs the run of another task waits for the end of that one in Slurm's queue.

        Raises:
            UserError: Slurm refuses the jobs.
        """
        tasks = self._tasks()
        left = list(tasks)
        while left:
            job_of = {key: job for job, keys in self._jobs.items() for key in keys}
            open_keys = {cell.key for cells in left for cell in cells}
            arrays: dict[tuple[str, ...], list[list[Cell]]] = {}
            for cells in left:
                before = {key for cell in cells for key in cell.needs} - {cell.key for cell in cells}
                if before.isdisjoint(open_keys):
                    jobs = sorted({job_of[key] for key in before & job_of.keys()})
                    arrays.setdefault(tuple(jobs), []).append(cells)
            for after, array in arrays.items():
                for start in range(0, len(array), _LARGEST_ARRAY):
                    self._submit(array[start : start + _LARGEST_ARRAY], after)
            left = [cells for cells in left if not any(cells in array for array in arrays.values())]
        return len(tasks)

    def _submit(self, tasks: Sequence[Sequence[Cell]], after: Sequence[str]) -> None:
        """Queue ``tasks`` as one array, which begins when the jobs ``after`` are over, however they end."""
        from submitit.core.utils import FailedJobError

        self._executor.update_parameters(dependency=":".join(["afterany", *after]) if after else None)
        patience = 0.8 * self._settings.signal_delay
        try:
            # submitit repeats what sbatch says; the error has it
            with contextlib.redirect_stderr(io.StringIO()), self._executor.batch():
                jobs = [
                    self._executor.submit(CellTask(self._name, self._ledger.folders, cells, patience))
                    for cells in tasks
                ]
        except FailedJobError as error:
            raise UserError(f"Slurm refuses the jobs ({one_line(error)}); change the file of --slurm") from None
        for job, cells in zip(jobs, tasks, strict=True):
            self._jobs[job.job_id] = [cell.key for cell in cells]
        first = f", after {', '.join(after)}" if after else ""
        self._observer.line(f"submitted {len(jobs)} tasks as Slurm job {jobs[0].job_id.partition('_')[0]}{first}")
        self._save()

    def _tasks(self) -> list[list[Cell]]:
        """Return the cells of each task: a run's training with its evaluations, or one cell.

        A run that others need is a task of its own: they do not wait for its evaluations.
        """
        cells = [cell for cell in self._state.left() if cell.key not in self._state.busy]
        needed = {key for cell in self._state.cells if isinstance(cell, TrainCell) for key in cell.needs}
        tasks: dict[str, list[Cell]] = {}
        for cell in cells:
            head = cell.train.key if isinstance(cell, EvalCell) and cell.train is not None else cell.key
            tasks.setdefault(cell.key if head in needed or head not in tasks else head, []).append(cell)
            self._ledger.forget(cell)
            self._state.begin(cell, "queued")
        return list(tasks.values())

    def _save(self) -> None:
        runs = {job: [self._state.by_key[key].run for key in keys] for job, keys in self._jobs.items()}
        entries = {job: {"cells": keys, "runs": sorted(set(runs[job]))} for job, keys in self._jobs.items()}
        write_atomically(self._path, json.dumps(entries) + "\n")

    def wait(self, *, should_stop: Callable[[], bool], interval: float = 2.0) -> None:
        """Follow the jobs until none is left, and queue what becomes ready meanwhile."""
        last = float("-inf")
        while self._jobs and not should_stop():
            if time.monotonic() - last >= interval:
                states = queue_states()
                self._look(states)
                self.submit()
                last = time.monotonic()
            self._observer.tick(self._running, left=lambda: None)
            time.sleep(0.1)

    def _look(self, states: dict[str, str]) -> None:
        """Pass on what ended; a job counts as gone when it is missing twice, since files may lag behind."""
        for job, keys in list(self._jobs.items()):
            state = states.get(job)
            gone = state is None and job in self._gone
            if state is None:
                self._gone.add(job)
            else:
                self._gone.discard(job)
            for cell in (self._state.by_key[key] for key in keys):
                if cell.key in self._state.busy:
                    self._judge(cell, gone=gone, state=state)
            if state == "RUNNING":
                self._since.setdefault(job, time.monotonic())
            if gone:
                del self._jobs[job]
                self._save()

    def _judge(self, cell: Cell, *, gone: bool, state: str | None) -> None:
        if self._state.statuses[cell.key] == "blocked":
            self._state.busy.pop(cell.key)
            return
        outcome = self._ledger.outcome(cell)
        if outcome is not None and outcome.status == "interrupted":
            outcome = None  # the job is queued again, or gone
        if outcome is not None and outcome.record is not None:
            self._ledger.note_record(outcome.record)
        if outcome is None and gone:
            outcome = Outcome("interrupted", 0, 0.0, lines=("the job was cancelled or lost",))
        if outcome is not None:
            self._state.end(cell, outcome)
            self._observer.ended(cell, outcome)
        elif state == "RUNNING" and self._ledger.log_path(cell).exists():
            self._state.begin(cell, "running")

    def _running(self) -> list[Running]:
        now, shown = time.monotonic(), []
        for job, since in self._since.items():
            keys = [key for key in self._jobs.get(job, ()) if self._state.busy.get(key) == "running"]
            if keys:
                cell = self._state.by_key[keys[-1]]
                shown.append(Running(cell, now - since, f"job {job}"))
        return shown

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs that are not over."""
        return list(self._jobs)


_OVER = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)
"""States of jobs that are not queued again; one that is passes through others, in none of which it may be missed."""


def queue_states() -> dict[str, str]:
    """Return the state of each of the user's jobs that is not over by id; tasks of arrays are ``JOB_TASK``.

    Raises:
        UserError: Slurm does not answer, three times in a row.
    """
    for attempt in range(3):
        listed = subprocess.run(
            ["squeue", "--me", "--states=all", "--array", "--noheader", "--format", "%i %T"],
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode == 0:
            states = (line.split(maxsplit=1) for line in listed.stdout.splitlines() if line.strip())
            return {job: state for job, state in states if state not in _OVER}
        time.sleep(5 * (attempt + 1))
    raise UserError(f"squeue does not answer: {' '.join(listed.stderr.split())}; the jobs go on, try again later")
