"""Suites on this machine: as many worker processes as fit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.lock import HeldError, locked
from robustbench_gkl.core.machine import usable_cores
from robustbench_gkl.suite.cells import Cell
from robustbench_gkl.suite.observer import Running, SuiteObserver
from robustbench_gkl.suite.process import CellProcess
from robustbench_gkl.suite.state import SuiteState

_WAIT = 0.1
"""Seconds between two looks at the processes."""


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold the suite's lock in the block and yield its file descriptor.

    Workers that inherit it hold it too, so a suite whose parent was killed is not started beside its own workers.

    Raises:
        UserError: the suite is running.
    """
    with ExitStack() as held:
        try:
            descriptor = held.enter_context(locked(folder / "lock", keep=True))
        except HeldError:
            raise UserError(f"this suite is running already ({folder}/lock is held); wait for it or stop it") from None
        yield descriptor


def cuda_devices() -> list[str]:
    """Return what ``CUDA_VISIBLE_DEVICES`` may name, found without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def worker_environments(*, jobs: int | None, device: str, cells: int) -> list[dict[str, str]]:
    """Return the environment of each worker: its GPU, or its share of the cores.

    Args:
        jobs: the number of workers; None for one per GPU, or on the CPU one per core (or per ``OMP_NUM_THREADS``
            cores).
        device: ``auto``, ``cpu`` or ``cuda``; one that names a GPU leaves nothing to be shared out.
        cells: how many there are to run; there is no use for more workers.
    """
    cores = usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    threads = threads if threads.isdecimal() and int(threads) else ""
    gpus = cuda_devices() if device in ("auto", "cuda") else []
    fitting = len(gpus) or (1 if ":" in device else max(1, cores // int(threads or 1)))
    count = max(1, min(jobs or fitting, cells))
    shared = {"OMP_NUM_THREADS": threads or str(max(1, cores // count))}
    return [shared | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}) for number in range(count)]


def run_local(
    state: SuiteState,
    observer: SuiteObserver,
    environments: Sequence[dict[str, str]],
    *,
    lock: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run all cells of ``state`` that can run, one worker in each of ``environments``.

    Args:
        state, observer: the cells, and what is called when one begins or ends.
        environments: see :func:`worker_environments`.
        lock: from :func:`only_one`.
        should_stop: called ten times a second; True lets the workers save their state and ends the call.

    Raises:
        KeyboardInterrupt: the workers were not to save their state; they are killed.
    """
    pool = _Pool(state, observer, environments, lock)
    stopping = False
    try:
        while pool.processes or (state.ready() and not should_stop()):
            if should_stop() and not stopping:
                stopping = True
                pool.stop()
            if not stopping:
                pool.fill()
            pool.collect()
            observer.tick(pool.running, left=lambda: state.seconds_left(len(environments), pool.elapsed()))
            time.sleep(_WAIT)
    except KeyboardInterrupt:
        pool.kill()
        raise


class _Pool:
    """The workers; each runs one cell at a time."""

    def __init__(
        self, state: SuiteState, observer: SuiteObserver, environments: Sequence[dict[str, str]], lock: int
    ) -> None:
        self._state, self._observer, self._lock = state, observer, lock
        self._environments = environments
        self.processes: dict[int, CellProcess] = {}

    def fill(self) -> None:
        """Give each idle worker a cell."""
        for number, environment in enumerate(self._environments):
            if number in self.processes:
                continue
            cell = next(iter(self._state.ready()), None)
            if cell is None:
                return
            self._start(number, cell, environment)

    def _start(self, number: int, cell: Cell, environment: dict[str, str]) -> None:
        self._state.begin(cell)
        self._observer.begun(cell)
        self.processes[number] = CellProcess(cell, self._state.ledger, environment=environment, keep_open=[self._lock])

    def collect(self) -> None:
        """Pass on the cells that ended."""
        for number, process in list(self.processes.items()):
            outcome = process.poll()
            if outcome is not None:
                del self.processes[number]
                self._state.end(process.cell, outcome)
                self._observer.ended(process.cell, outcome)

    def elapsed(self) -> dict[str, float]:
        """Return for how many seconds each cell has been running."""
        return {process.cell.key: process.seconds for process in self.processes.values()}

    def running(self) -> list[Running]:
        """Return what runs now."""
        return [Running(one.cell, one.seconds, one.last_line()) for one in self.processes.values()]

    def stop(self) -> None:
        """Ask all workers to save their state and end."""
        for process in self.processes.values():
            process.stop()

    def kill(self) -> None:
        """End all workers at once."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
