"""How far a run has got, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robustbench_gkl.training.events import StepReport
from robustbench_gkl.training.schedule import Place


@dataclass
class RunProgress:
    """Where a run stands.

    Attributes:
        epochs, steps: of the whole run, and of each epoch.
        batch_size: images a step.
        epoch, step: where it is, counted from 0: before step ``step`` of ``epoch``.
        seconds: that steps have taken so far, validation not included.
    """

    epochs: int
    steps: int
    batch_size: int
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0

    @property
    def place(self) -> Place:
        """Where the schedules are."""
        return Place(self.epoch, self.epochs, self.step, self.steps)

    @property
    def taken(self) -> int:
        """Steps taken since the run began."""
        return self.epoch * self.steps + self.step

    def next_epoch(self) -> None:
        """Go to the first step of the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0

    def seconds_left(self, *, running: float = 0.0) -> float:
        """Return an estimate for the rest; ``running`` seconds are not in ``seconds`` yet."""
        return (self.seconds + running) * (self.epochs * self.steps - self.taken) / max(self.taken, 1)

    def report(self, *, running: float, means: Callable[[], dict[str, float]]) -> StepReport:
        """Return what is told after a step."""
        left = self.seconds_left(running=running)
        return StepReport(self.epoch, self.epochs, self.step, self.steps, left, means)

    def speed(self) -> dict[str, float]:
        """Return the columns of ``metrics.csv`` on time, at the end of an epoch."""
        shown = self.steps * self.batch_size * (self.epoch + 1)
        return {
            "seconds": round(self.seconds, 2),
            "images_per_second": round(shown / max(self.seconds, 1e-9), 1),
        }
