"""Scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from robustbench_gkl.core.noise import permutation
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.base import DATASETS, Dataset, ImageSet
from robustbench_gkl.data.facts import FACTS, Split


@dataclass(frozen=True)
class Digits:
    """1,797 grey images of 8 x 8, of which a fixed random 360 are the test split.

    Which images are tested is a function of this package's own random numbers, so that it stays the same under
    every version of scikit-learn, numpy and torch. The 17 grey levels are spread over 0..255.
    """

    shape: ClassVar[Shape] = FACTS["digits"].shape
    classes: ClassVar[tuple[str, ...]] = FACTS["digits"].classes

    def load(self, split: Split) -> ImageSet:
        """Return the 1,437 training or the 360 test images, in the order in which scikit-learn has them."""
        from sklearn.datasets import load_digits

        source = load_digits()
        levels = torch.from_numpy(source.images).to(torch.int64)[:, None]
        pixels = ((levels * 255 + 8) // 16).to(torch.uint8)
        labels = torch.from_numpy(source.target).to(torch.int64)
        order = permutation(0, "digits", "test", n=len(labels))
        tested = FACTS["digits"].test
        rows = order[:tested] if split == "test" else order[tested:]
        return ImageSet(pixels, labels, self.classes).take(rows.sort().values)


@DATASETS.register("digits")
def digits(*, data_dir: Path) -> Dataset:
    """1,797 grey 8x8 images of digits from scikit-learn, always there (360 to test on)."""
    return Digits()
