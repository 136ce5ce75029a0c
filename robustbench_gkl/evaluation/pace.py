"""How far a stage has come, and how fast it goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from robustbench_gkl.evaluation.context import Context
from robustbench_gkl.evaluation.progress import Progress
from robustbench_gkl.evaluation.sharing import Tally

_TELL_EVERY = 0.2
"""Seconds between two reports of progress."""


class HasProgress(Protocol):
    """A driver, here or in another process."""

    @property
    def progress(self) -> float:
        """How far the restarts under way have come, in restarts."""
        ...


class Pace:
    """Counts what a stage has done, here and on other ranks, and reports it.

    Args:
        context: the evaluation.
        name: of the stage.
        restarts: how many restarts or targets a sample goes through.
    """

    def __init__(self, context: Context, *, name: str, restarts: int) -> None:
        self._context, self._name, self._restarts = context, name, restarts
        self._tally = Tally(context.share.exchange)
        self._drivers: Sequence[HasProgress] = ()
        self._attacked = self._standing = self._before = 0
        self._reported = time.perf_counter()
        self.mark()
        self.begin(())

    def attack(self, *, attacked: int, standing: int, done: int) -> None:
        """Note what the stage goes through: samples attacked, those still standing, and restarts done before."""
        self._attacked, self._standing, self._before = attacked, standing, done

    def begin(self, drivers: Sequence[HasProgress]) -> None:
        """Note where the pace is measured from, and whose restarts are under way."""
        self._drivers = drivers
        self._start = (time.perf_counter(), *self._reached())

    def add(self, *, restarts: int, fallen: int, calls: int) -> None:
        """Add restarts that are over, samples that fell, and images through the model."""
        self._tally.add(restarts, fallen, calls)

    def end(self) -> None:
        """Let rank 0 know all that was added."""
        self._tally.say()

    def mark(self) -> None:
        """Note that all calls of the model so far have been added."""
        meter = self._context.meter
        self._marked = meter.forwards + meter.backwards

    def _reached(self) -> tuple[float, int, int]:
        """Return the restarts that are over, parts of them included, the samples that stand, and the calls made."""
        restarts, fallen, calls = self._tally.totals()
        meter = self._context.meter
        under_way = sum(driver.progress for driver in self._drivers)
        since = meter.forwards + meter.backwards - self._marked
        return self._before + restarts + under_way, self._standing - fallen, calls + since

    def report(self, *, force: bool = False) -> None:
        """Report progress if it is time to, or ``force``."""
        on_progress, now = self._context.on_progress, time.perf_counter()
        if on_progress is None or not (force or now - self._reported >= _TELL_EVERY):
            return
        self._reported = now
        began, before, _, calls_before = self._start
        reached, standing, calls = self._reached()
        seconds = max(now - began, 1e-9)
        left = seconds * (self._restarts * self._attacked - reached) / (reached - before) if reached > before else None
        on_progress(
            Progress(
                stage=self._name,
                done=min(int(reached / self._restarts), self._attacked),
                total=self._attacked,
                standing=standing,
                n=int(self._context.mine.sum()),
                fallen=self._attacked - standing,
                calls_per_second=(calls - calls_before) / seconds,
                seconds_left=left,
            )
        )
