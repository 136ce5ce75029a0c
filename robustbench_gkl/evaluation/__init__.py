"""Evaluation: attacks in turn on the samples still standing, each success checked again."""

from robustbench_gkl.evaluation.api import evaluate
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.progress import Progress

__all__ = ["Evaluation", "Progress", "evaluate"]
