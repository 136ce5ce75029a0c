"""Images brought to another size before a model sees them, as torchvision's transforms do it to Pillow images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from robustbench_gkl.core.errors import UserError

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Fit:
    """How images are brought to the size that a model takes.

    Attributes:
        resize: pixels of the shorter side, or (height, width); None for as it is.
        crop: pixels of the square that is then cut from the centre; None for all of the image.
        interpolation: between pixels.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    interpolation: Interpolation = "bilinear"

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that an image of ``size`` is brought to.

        Raises:
            UserError: the crop is larger than the image.
        """
        height, width = self._resized(size)
        if self.crop is None:
            return height, width
        if self.crop > min(height, width):
            raise UserError(f"--crop {self.crop} is larger than the images, {height}x{width}; resize them first")
        return self.crop, self.crop

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.resize is None:
            return size
        if not isinstance(self.resize, int):
            return self.resize
        shorter = min(size)
        height, width = (self.resize if side == shorter else int(self.resize * side / shorter) for side in size)
        return height, width

    def image(self, pixels: Pixels) -> Pixels:
        """Return the pixels (C, H, W) uint8 of one image, resized and cropped."""
        from PIL import Image

        original = (pixels.shape[1], pixels.shape[2])
        (height, width), (tall, wide) = self._resized(original), self.size(original)
        if (height, width) != original:
            planes = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            resample = getattr(Image.Resampling, self.interpolation.upper())
            found = np.asarray(Image.fromarray(planes).resize((width, height), resample))
            pixels = found[None] if found.ndim == 2 else found.transpose(2, 0, 1)
        top, left = round((height - tall) / 2), round((width - wide) / 2)
        cut: Pixels = np.ascontiguousarray(pixels[:, top : top + tall, left : left + wide])
        return cut


UNCHANGED = Fit()
"""Images stay as they are."""
