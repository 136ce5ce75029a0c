"""gklbench: adversarial training, robustness evaluation and leaderboards for image classifiers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustbench_gkl.core.version import __version__ as __version__

if TYPE_CHECKING:
    from robustbench_gkl.core.threat import ThreatModel
    from robustbench_gkl.evaluation import evaluate
    from robustbench_gkl.results import leaderboard
    from robustbench_gkl.runs import load_model

__all__ = ["ThreatModel", "evaluate", "leaderboard", "load_model"]

_HOMES = {
    "ThreatModel": "robustbench_gkl.core.threat",
    "evaluate": "robustbench_gkl.evaluation",
    "leaderboard": "robustbench_gkl.results",
    "load_model": "robustbench_gkl.runs",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``gklbench --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
