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
    """A source for several drivers: it is exhausted when no sample has a run left, wherever.

    Args:
        source: where the tasks come from.
        samples: how many samples they belong to.
    """

    def __init__(self, source: Source, *, samples: int) -> None:
        self._source, self._left = source, samples
        self._lock = threading.Lock()

    def take(self, free: int, held: int) -> list[Task]:
        """Return at most ``free`` tasks to begin; ``held`` are under way already where they go."""
        with self._lock:
            return self._source.take(free, held)

    def settle(self, later: Sequence[Task], through: int) -> None:
        """Add the tasks ``later``; ``through`` more samples have no run left."""
        with self._lock:
            self._left -= through
            self._source.settle(later, through)

    @property
    def exhausted(self) -> bool:
        """Whether no sample has a run left."""
        return self._left <= 0


def run_together(drivers: Sequence[Driver], source: Source, *, samples: int, stop: Callable[[], None]) -> bool:
    """Do the tasks of ``source`` with all ``drivers`` at once; torch's threads are divided between them.

    Args:
        drivers: their referee must be safe to call from several threads.
        source: of the tasks.
        samples: how many samples the tasks belong to.
        stop: called where one driver fails or the call is interrupted; the referee is then to stop the others.

    Returns:
        Whether all are done; False where the referee stopped the drivers.
    """
    if len(drivers) == 1:
        return drivers[0].run(source)
    shared, threads = SharedSource(source, samples=samples), torch.get_num_threads()

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
