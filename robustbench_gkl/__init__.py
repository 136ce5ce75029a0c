"""gklbench: adversarial training, robustness evaluation and leaderboards for image classifiers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustbench_gkl.core.version import __version__ as __version__

if TYPE_CHECKING:
    from robustbench_gkl import attacks, data, losses, models, plot, results
    from robustbench_gkl.core.threat import ThreatModel
    from robustbench_gkl.data import load_dataset
    from robustbench_gkl.models import create_model
    from robustbench_gkl.python.evaluating import certify, evaluate
    from robustbench_gkl.python.training import train
    from robustbench_gkl.results import leaderboard
    from robustbench_gkl.runs import load_model

__all__ = [
    "ThreatModel",
    "attacks",
    "certify",
    "create_model",
    "data",
    "evaluate",
    "leaderboard",
    "load_dataset",
    "load_model",
    "losses",
    "models",
    "plot",
    "results",
    "train",
]

_HOMES = {
    "ThreatModel": "robustbench_gkl.core.threat",
    "certify": "robustbench_gkl.python.evaluating",
    "create_model": "robustbench_gkl.models",
    "evaluate": "robustbench_gkl.python.evaluating",
    "leaderboard": "robustbench_gkl.results",
    "load_dataset": "robustbench_gkl.data",
    "load_model": "robustbench_gkl.runs",
    "train": "robustbench_gkl.python.training",
}
"""The public names that are no rooms of the package, and the room that has each."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``gklbench --help`` does not wait for torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"robustbench_gkl.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
