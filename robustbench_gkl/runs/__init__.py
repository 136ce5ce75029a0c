"""Runs: the folder of a trained or imported model."""

from robustbench_gkl.runs.run import Run, RunConfig, find_run, load_model, now, weights_sha256

__all__ = ["Run", "RunConfig", "find_run", "load_model", "now", "weights_sha256"]
