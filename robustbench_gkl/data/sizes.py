"""How many images and classes a data set has, without loading it. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data.facts import FACTS, Split
from robustbench_gkl.data.npz_arrays import NpzArrays


def dataset_classes(dataset: str) -> int | None:
    """Return the number of classes of a data set, or None where it has to be loaded to be counted."""
    if dataset in FACTS:
        return len(FACTS[dataset].classes)
    kind, _, path = dataset.partition(":")
    try:
        if kind == "npz":
            return len(NpzArrays(Path(path).expanduser()).classes)
        if kind in ("folder", "imagenet"):
            return sum(child.is_dir() for child in (Path(path).expanduser() / "train").iterdir())
    except (OSError, UserError):
        return None
    return None


def dataset_size(dataset: str, split: Split) -> int | None:
    """Return the number of images in a split, or None where they have to be loaded to be counted."""
    if dataset in FACTS:
        return FACTS[dataset].size(split)
    kind, _, path = dataset.partition(":")
    try:
        return NpzArrays(Path(path).expanduser()).size(split) if kind == "npz" else None
    except UserError:
        return None
