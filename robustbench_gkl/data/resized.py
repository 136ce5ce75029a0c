"""Data sets whose images are brought to another size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.base import Dataset, ImageSet
from robustbench_gkl.data.facts import Split
from robustbench_gkl.data.folder import ImageFolder
from robustbench_gkl.data.resizing import UNCHANGED, Fit


def resized(dataset: Dataset, fit: Fit) -> Dataset:
    """Return ``dataset`` with its images resized and cropped; a folder's images may then differ in size."""
    if fit == Fit(interpolation=fit.interpolation):
        return dataset
    return replace(dataset, fit=fit) if isinstance(dataset, ImageFolder) else _Resized(dataset, fit)


def fit_of(dataset: Dataset) -> Fit:
    """Return how the images of ``dataset`` are brought to size."""
    return dataset.fit if isinstance(dataset, (ImageFolder, _Resized)) else UNCHANGED


@dataclass(frozen=True)
class _Resized:
    """A data set in memory with its images resized and cropped."""

    dataset: Dataset
    fit: Fit

    @property
    def shape(self) -> Shape:
        """(channels, height, width) after resizing and cropping."""
        channels, height, width = self.dataset.shape
        return channels, *self.fit.size((height, width))

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in label order."""
        return self.dataset.classes

    def load(self, split: Split) -> ImageSet:
        """Return all images of a split.

        Raises:
            UserError: images with neither one nor three channels.
        """
        found = self.dataset.load(split)
        if found.shape[0] not in (1, 3):
            raise UserError(f"images of {found.shape[0]} channels cannot be resized; leave out --resize and --crop")
        images = np.stack([self.fit.image(pixels) for pixels in found.images.numpy()])
        return ImageSet(torch.from_numpy(images), found.labels, found.classes)
