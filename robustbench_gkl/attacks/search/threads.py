"""Several drivers of one process, each in a thread of its own.

On a CPU several threads that run a small network each are faster than several that share each of its layers, and the
work of an attack between two calls of the network can hardly be divided.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from robustbench_gkl.attacks.search.driver import Driver
from robustbench_gkl.attacks.search.tasks import Source, Task

_FEWEST = 48
"""Samples in the batch of one thread; with fewer it is faster to share a batch."""


def driver_count(device: torch.device, samples: int) -> int:
    """Return how many drivers are to share ``samples`` that fit into one batch: on the CPU at most one per thread."""
    return max(1, min(torch.get_num_threads(), samples // _FEWEST)) if device.type == "cpu" else 1


class SharedSource:
    """A source for drivers in several threads."""

    def __init__(self, source: Source) -> None:
        self._source, self._lock = source, threading.Lock()

    def take(self, free: int, held: int) -> list[Task]:
        """Return at most ``free`` tasks to begin; ``held`` are under way already where they go."""
        with self._lock:
            return self._source.take(free, held)

    def settle(self, done: Sequence[Task], gone: Sequence[Task]) -> None:
        """Note which tasks are over; see :meth:`Source.settle`."""
        with self._lock:
            self._source.settle(done, gone)

    @property
    def exhausted(self) -> bool:
        """Whether no task will ever come again."""
        with self._lock:
            return self._source.exhausted


def run_together(drivers: Sequence[Driver], source: Source, *, stop: Callable[[], None]) -> bool:
    """Do the tasks of ``source`` with all ``drivers`` at once; torch's threads are divided between them.

    Args:
        drivers: their referee must be safe to call from several threads.
        source: of the tasks.
        stop: called where one driver fails or the call is interrupted; the referee is then to stop the others.

    Returns:
        Whether all are done; False where the referee stopped the drivers.
    """
    if len(drivers) == 1:
        return drivers[0].run(source)
    shared, threads = SharedSource(source), torch.get_num_threads()

    def work(driver: Driver) -> bool:
        torch.set_num_threads(max(1, threads // len(drivers)))
        try:
            return driver.run(shared)
        except BaseException:
            stop()
            raise

    try:
        with ThreadPoolExecutor(len(drivers)) as pool:
            futures = [pool.submit(work, driver) for driver in drivers]
            try:
                ends = [future.result() for future in futures]
            except BaseException:
                stop()
                raise
    finally:
        torch.set_num_threads(threads)
    return all(ends)
