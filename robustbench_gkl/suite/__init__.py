"""Suites: a matrix of training runs and evaluations, of which only what is not done yet is run."""

from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell
from robustbench_gkl.suite.matrix import Suite, read_suite

__all__ = ["Cell", "EvalCell", "Suite", "TrainCell", "read_suite"]
