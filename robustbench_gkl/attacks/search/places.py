"""Square windows of images, to read and to write, in the memory of the host and on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache

import numpy as np
import torch
from torch import Tensor


class Windows(ABC):
    """A square window in the image of each of some slots.

    Attributes:
        slots: n of them.
    """

    def __init__(self, slots: slice | Tensor) -> None:
        self.slots = slots

    @abstractmethod
    def read(self, images: Tensor) -> Tensor:
        """Return (n, C, side * side): the windows of ``images``, (slots, C, H, W)."""

    @abstractmethod
    def write(self, images: Tensor, values: Tensor) -> None:
        """Write ``values`` (n, C, side * side) into the windows of ``images``, (slots, C, H, W)."""


class FlatWindows(Windows):
    """Windows by the flat places of their pixels, (n, C, side * side) int64."""

    def __init__(self, slots: slice | Tensor, places: Tensor) -> None:
        super().__init__(slots)
        self._places = places

    def read(self, images: Tensor) -> Tensor:
        """Gather the windows, (n, C, side * side), of ``images`` (slots, C, H, W)."""
        return images.view(-1).take(self._places)

    def write(self, images: Tensor, values: Tensor) -> None:
        """Scatter ``values`` (n, C, side * side) into the windows of ``images`` (slots, C, H, W)."""
        images.view(-1).put_(self._places, values)


class HostWindows(Windows):
    """Windows in the memory of the host, by their corners: whole rows are copied, and no place is computed."""

    def __init__(self, slots: slice | Tensor, side: int, at: tuple[np.ndarray, slice, np.ndarray, np.ndarray]) -> None:
        super().__init__(slots)
        self._side, self._at = side, at

    def read(self, images: Tensor) -> Tensor:
        """Copy the windows, (n, C, side * side), of ``images`` (slots, C, H, W) row by row."""
        return torch.from_numpy(_windows_of(images, self._side)[self._at]).flatten(2)

    def write(self, images: Tensor, values: Tensor) -> None:
        """Copy ``values`` (n, C, side * side) into the windows of ``images`` (slots, C, H, W) row by row."""
        _windows_of(images, self._side)[self._at] = values.reshape(*values.shape[:2], self._side, self._side).numpy()


def _windows_of(images: Tensor, side: int) -> np.ndarray:
    """Return a view of ``images`` (B, C, H, W): all windows, (B, C, H - side + 1, W - side + 1, side, side)."""
    pixels = images.numpy()
    *outer, height, width = pixels.shape
    shape = (*outer, height - side + 1, width - side + 1, side, side)
    return np.ndarray(shape, pixels.dtype, pixels, strides=pixels.strides + pixels.strides[2:])


@cache
def template(side: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return (C, side * side) int64: the places of a window in the upper left corner of a flat image."""
    channels, height, width = shape
    steps = torch.arange(side, device=device)
    plane = (steps[:, None] * width + steps).reshape(1, -1)
    return torch.arange(channels, device=device)[:, None] * (height * width) + plane
