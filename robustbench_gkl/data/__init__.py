"""Data sets. Each file registers one source; all give uint8 images and integer labels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_gkl.data.base import (
        DATASETS,
        Dataset,
        ImageSet,
        load_dataset,
        to_unit,
        train_validation_split,
    )

__all__ = ["DATASETS", "Dataset", "ImageSet", "load_dataset", "to_unit", "train_validation_split"]


def __getattr__(name: str) -> Any:
    """Import the public names when one is first used: facts and sizes of data sets need no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("robustbench_gkl.data.base"), name)
