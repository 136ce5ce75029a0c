"""Learning-rate schedules: pure functions of the progress of a run."""

from __future__ import annotations

import math

from robustbench_gkl.config import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, *, base: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of ``epoch`` (0-based) in a run of ``epochs``."""
    if schedule.name == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return base
