"""Training: the loop, its schedules and its measurements."""

from robustbench_gkl.training.events import EpochReport, Event, Interrupted, StartReport, StepReport
from robustbench_gkl.training.loop import train

__all__ = ["EpochReport", "Event", "Interrupted", "StartReport", "StepReport", "train"]
