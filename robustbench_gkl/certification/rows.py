"""Rows of coefficients: linear functions of a layer's values, each cropped to where it is not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """N linear functions of one layer's values.

    Attributes:
        values: (N, F) coefficients, or (N, C, h, w) of a layer of maps (C, H, W): of the whole maps where ``corner`` is
            None, else of a window of them, outside of which the coefficients are zero.
        corner: (N, 2) int64, row and column of the window's first place in the maps; it may lie outside of them, where
            the coefficients are zero too.
    """

    values: Tensor
    corner: Tensor | None = None

    def __add__(self, other: Rows) -> Rows:
        """Return the sums, in the smallest windows that hold both; all rows lie alike to each other."""
        if self.corner is None or other.corner is None:
            raise ValueError("rows of windows and of whole maps have no sum; make both whole first")
        first = torch.minimum(self.corner[:1], other.corner[:1])
        ends = [
            rows.corner[:1] + torch.tensor(rows.values.shape[2:], device=first.device)
            for rows in (self, other)
            if rows.corner is not None
        ]
        height, width = (torch.maximum(*ends) - first)[0].tolist()
        corner = self.corner + (first - self.corner[:1])
        return Rows(_placed(self, first, height, width) + _placed(other, first, height, width), corner)

    def lies_alike(self, other: Rows) -> bool:
        """Return whether each window lies to its fellow as all others do: not where the strides of two paths differ."""
        assert self.corner is not None
        assert other.corner is not None
        apart = self.corner - other.corner
        return bool((apart == apart[:1]).all())

    def whole(self, shape: tuple[int, ...]) -> Rows:
        """Return the same rows over the whole maps of ``shape`` (C, H, W)."""
        if self.corner is None:
            return self
        height, width = self.values.shape[2:]
        below = torch.arange(shape[1], device=self.corner.device) - self.corner[:, :1]
        right = torch.arange(shape[2], device=self.corner.device) - self.corner[:, 1:]
        inside = _inside(below, height)[:, :, None] & _inside(right, width)[:, None, :]
        place = below.clamp(0, height - 1)[:, :, None] * width + right.clamp(0, width - 1)[:, None, :]
        index = place.flatten(1)[:, None].expand(-1, shape[0], -1)
        taken = self.values.flatten(2).gather(2, index).reshape(-1, *shape)
        return Rows(taken * inside[:, None])

    def inside(self, shape: tuple[int, ...]) -> Rows:
        """Return the rows with nothing outside of the maps of ``shape`` (C, H, W), whole where that is no larger."""
        if self.corner is None:
            return self
        height, width = self.values.shape[2:]
        if height >= shape[1] and width >= shape[2]:
            return self.whole(shape)
        down, right = self.places()
        within = _inside(down, shape[1])[:, None, :, None] & _inside(right, shape[2])[:, None, None, :]
        return Rows(self.values * within, self.corner)

    def places(self) -> tuple[Tensor, Tensor]:
        """Return the windows' rows (N, h) and columns (N, w) in the maps."""
        assert self.corner is not None
        height, width = self.values.shape[2:]
        device = self.corner.device
        return (
            self.corner[:, :1] + torch.arange(height, device=device),
            self.corner[:, 1:] + torch.arange(width, device=device),
        )

    def of_images(self, maps: Tensor, image: Tensor | None) -> Tensor:
        """Return what stands in ``maps`` (B, ...) where each row's coefficients stand, (N, ...) like ``values``.

        Args:
            maps: of B images.
            image: (N,), to which image each row belongs; None where row n belongs to image n.
        """
        if self.corner is None:
            return maps if image is None else maps.index_select(0, image)
        count, channels, height, width = maps.shape
        down, right = self.places()
        place = (down.clamp(0, height - 1) * width)[:, :, None] + right.clamp(0, width - 1)[:, None, :]
        belongs = torch.arange(len(place), device=place.device) if image is None else image
        windows = maps.permute(0, 2, 3, 1).reshape(count * height * width, channels)
        taken = windows.index_select(0, (place + (belongs * (height * width))[:, None, None]).flatten())
        return taken.reshape(*place.shape, channels).permute(0, 3, 1, 2)


def one_hot(shape: tuple[int, ...], neurons: Tensor, *, sign: Tensor) -> Rows:
    """Return N rows, each of which reads one neuron of a layer with a sign.

    Args:
        shape: of the layer, (F,) or (C, H, W).
        neurons: (N,) places in the flattened layer.
        sign: (N,) float.
    """
    if len(shape) == 1:
        rows = torch.zeros(len(neurons), *shape, dtype=sign.dtype, device=sign.device)
        return Rows(rows.scatter_(1, neurons[:, None], sign[:, None]))
    channels, height, width = shape
    channel, place = neurons // (height * width), neurons % (height * width)
    rows = torch.zeros(len(neurons), channels, 1, 1, dtype=sign.dtype, device=sign.device)
    rows[torch.arange(len(neurons)), channel, 0, 0] = sign
    return Rows(rows, torch.stack([place // width, place % width], dim=1))


def _inside(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)


def _placed(rows: Rows, first: Tensor, height: int, width: int) -> Tensor:
    """Return the values in windows of ``height`` x ``width``, the first of which begins at ``first`` (1, 2)."""
    assert rows.corner is not None
    top, left = (rows.corner[:1] - first)[0].tolist()
    bottom, right = height - top - rows.values.shape[2], width - left - rows.values.shape[3]
    return torch.nn.functional.pad(rows.values, (left, right, top, bottom))
