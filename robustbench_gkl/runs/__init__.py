"""Runs: the folder of a trained or imported model. To look at one takes no torch; to load its model does."""

from robustbench_gkl.models.weights import weights_sha256
from robustbench_gkl.runs.config import ORIGINS, DataHashes, Origin, RunConfig, now
from robustbench_gkl.runs.finding import find_run, load_model, look_for, runs_in
from robustbench_gkl.runs.run import STATE_VERSION, Run
from robustbench_gkl.runs.writing import Draft, begun, settled, writing

__all__ = [
    "ORIGINS",
    "STATE_VERSION",
    "DataHashes",
    "Draft",
    "Origin",
    "Run",
    "RunConfig",
    "begun",
    "find_run",
    "load_model",
    "look_for",
    "now",
    "runs_in",
    "settled",
    "weights_sha256",
    "writing",
]
