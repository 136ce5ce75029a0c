"""Suites: a matrix of trainings and evaluations, of which only what is not done yet is started."""

from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell
from robustbench_gkl.suite.matrix import Suite, read_suite

__all__ = ["Cell", "EvalCell", "Suite", "TrainCell", "read_suite"]
