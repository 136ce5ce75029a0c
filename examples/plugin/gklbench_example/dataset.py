"""A data set that is drawn and not downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.base import DATASETS, Dataset, ImageSet

_SIDE = 8
_COUNTS = {"train": 400, "test": 100}


class Stripes:
    """Grey 8x8 images of horizontal or vertical stripes under noise; the same in every process."""

    shape: Shape = (1, _SIDE, _SIDE)
    classes: tuple[str, ...] = ("horizontal", "vertical")

    def load(self, split: Literal["train", "test"]) -> ImageSet:
        """Return the 400 training or the 100 test images."""
        random = np.random.default_rng([2026, len(split)])
        labels = np.arange(_COUNTS[split]) % 2
        dark = np.arange(_SIDE) % 2 * 0.5 + 0.25
        clean = np.where(labels[:, None, None] == 0, dark[:, None], dark[None, :])
        noisy = (clean + random.normal(0, 0.15, (len(labels), _SIDE, _SIDE))).clip(0, 1)
        pixels = torch.from_numpy((255 * noisy).round().astype(np.uint8))[:, None]
        return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), self.classes)


@DATASETS.register("example-stripes")
def stripes(*, data_dir: Path) -> Dataset:
    """Grey 8x8 images of horizontal or vertical stripes (400 to train on, 100 to test on)."""
    return Stripes()
