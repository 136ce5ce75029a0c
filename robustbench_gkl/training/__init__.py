"""Training: the loop, schedules and checkpoints."""

from robustbench_gkl.training.checkpoint import Run, RunConfig, find_run, load_model, weights_sha256
from robustbench_gkl.training.events import EpochReport, Interrupted, StepReport
from robustbench_gkl.training.loop import train

__all__ = [
    "EpochReport",
    "Interrupted",
    "Run",
    "RunConfig",
    "StepReport",
    "find_run",
    "load_model",
    "train",
    "weights_sha256",
]
