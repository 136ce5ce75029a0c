"""Evaluation: attacks in turn on the samples still standing, each success checked again.

The names below are imported when they are first used: to say that an evaluation is recorded already takes no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_gkl.evaluation.evaluation import Evaluation
    from robustbench_gkl.evaluation.progress import Progress

__all__ = ["Evaluation", "Progress"]

_HOMES = {"Evaluation": "evaluation", "Progress": "progress"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustbench_gkl.evaluation.{_HOMES[name]}"), name)
