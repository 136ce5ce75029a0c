"""Architectures. Each file registers one family; parameter names follow the published checkpoints.

The names below are imported when they are first used: to say what a MODEL argument is takes no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_gkl.models.base import MODELS, Classifier, create_model

__all__ = ["MODELS", "Classifier", "create_model"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("robustbench_gkl.models.base"), name)
