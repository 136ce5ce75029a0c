"""Small folders in the layout of CIFAR-10-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def write_folder(
    folder: Path, *, names: tuple[str, ...], m: int, shape: tuple[int, ...] = (8, 8, 3)
) -> tuple[dict[str, Array], Array]:
    """Write random images, 5 x ``m`` for each corruption, and labels; return both."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    arrays: dict[str, Array] = {name: generator.integers(0, 256, (5 * m, *shape), dtype=np.uint8) for name in names}
    labels: Array = generator.integers(0, 10, 5 * m)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", labels)
    return arrays, labels
