"""Evaluation: attacks in turn on the samples still standing, each success checked again."""

from robustbench_gkl.evaluation.engine import Evaluation, Progress, evaluate

__all__ = ["Evaluation", "Progress", "evaluate"]
