"""Evaluation: attacks in turn on the samples still standing, each success checked again."""

from robustbench_gkl.evaluation.engine import evaluate
from robustbench_gkl.evaluation.outcome import Evaluation, Progress

__all__ = ["Evaluation", "Progress", "evaluate"]
