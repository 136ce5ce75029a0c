"""Data sets whose images are brought to another size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.base import Dataset, ImageSet
from robustbench_gkl.data.facts import Split
from robustbench_gkl.data.folder import ImageFolder
from robustbench_gkl.data.resizing import resize_images, resized_size

_AT_ONCE = 256
"""Images resized together."""


def resized(dataset: Dataset, *, resize: int | None = None, crop: int | None = None) -> Dataset:
    """Return ``dataset`` with its images resized and cropped.

    Args:
        dataset: any; a folder's images may then differ in size.
        resize: pixels of the shorter side; None for as it is. Bilinear with antialiasing, rounded to uint8.
        crop: pixels of the square that is cut from the centre; None for all of the image.

    Raises:
        UserError: a size below 1, or a crop that is larger than the images.
    """
    for name, value in (("resize", resize), ("crop", crop)):
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1 pixel, got {value}")
    if resize is None and crop is None:
        return dataset
    if isinstance(dataset, ImageFolder):
        return replace(dataset, resize=resize, crop=crop)
    return _Resized(dataset, resize, crop)


@dataclass(frozen=True)
class _Resized:
    """A data set in memory with its images resized and cropped."""

    dataset: Dataset
    resize: int | None
    crop: int | None

    @property
    def shape(self) -> Shape:
        """(channels, height, width) after resizing and cropping."""
        channels, height, width = self.dataset.shape
        return channels, *resized_size((height, width), resize=self.resize, crop=self.crop)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in label order."""
        return self.dataset.classes

    def load(self, split: Split) -> ImageSet:
        """Return all images of a split."""
        found = self.dataset.load(split)
        parts = found.images.split(_AT_ONCE)  # type: ignore[no-untyped-call]
        images = torch.cat([resize_images(part, resize=self.resize, crop=self.crop) for part in parts])
        return ImageSet(images, found.labels, found.classes)
