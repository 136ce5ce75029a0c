"""What training reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StartReport:
    """Told once, before the first step.

    Attributes:
        notes: what the settings make of the data, a line each; none if nothing is out of the ordinary.
        epoch, step: what is done already, of a run that goes on: so many epochs, and steps of the next one.
        epochs, steps: of the whole run, and of each epoch.
    """

    notes: tuple[str, ...]
    epoch: int
    epochs: int
    step: int
    steps: int


@dataclass(frozen=True)
class StepReport:
    """Told after each step: ``step`` of ``steps`` in ``epoch`` (from 0) of ``epochs`` is done.

    Attributes:
        seconds_left: estimate for the rest of the run.
        means: returns the means of the epoch so far, under the names of ``metrics.csv``. It waits for the device,
            so call it now and then and not after each step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    seconds_left: float
    means: Callable[[], dict[str, float]]


@dataclass(frozen=True)
class EpochReport:
    """Told after each epoch: its row of ``metrics.csv``.

    Attributes:
        warning: what is wrong with the run, in one line; None if nothing seems to be.
    """

    epochs: int
    row: dict[str, float]
    seconds_left: float
    warning: str | None = None


Event = StartReport | StepReport | EpochReport
Observer = Callable[[Event], None]


class Interrupted(Exception):  # noqa: N818
    """Training stopped as asked; the state is saved and ``--resume`` goes on from it."""
