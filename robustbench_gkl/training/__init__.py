"""Training: the loop, its schedules and its measurements."""

from robustbench_gkl.training.events import EpochReport, Interrupted, StepReport
from robustbench_gkl.training.loop import train

__all__ = ["EpochReport", "Interrupted", "StepReport", "train"]
