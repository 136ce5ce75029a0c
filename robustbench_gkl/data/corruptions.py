"""Corrupted test images in the layout of CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich, arXiv 1903.12261)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.npz_arrays import MOST_CHANNELS, Array

SEVERITIES = 5
_LABELS = "labels"
_HASHED_AT_ONCE = 1000
"""Images read at a time for their hash."""


@dataclass(frozen=True)
class CorruptionFolder:
    """A folder with ``labels.npy`` and one ``CORRUPTION.npy`` for each corruption, read as it is needed.

    Each file holds the same images five times, at severities 1 to 5 one after the other: uint8 (5 M, H, W, C) or
    (5 M, H, W); labels are integers (5 M,). M is 10,000 in the published folders.
    """

    path: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The corruptions, sorted.

        Raises:
            UserError: no such folder, or none in it.
        """
        if not self.path.is_dir():
            problem = "is a file" if self.path.exists() else "does not exist"
            raise UserError(f"{self.path} {problem}; expected a folder of CORRUPTION.npy files and labels.npy")
        names = tuple(sorted(path.stem for path in self.path.glob("*.npy") if path.stem != _LABELS))
        if not names:
            raise UserError(f"{self.path} holds no CORRUPTION.npy file, such as gaussian_noise.npy")
        return names

    @property
    def per_severity(self) -> int:
        """M, the images of each severity."""
        return len(self._labels) // SEVERITIES

    @property
    def shape(self) -> Shape:
        """(channels, height, width)."""
        return self._shape(self._arrays[self.names[0]])

    @property
    def most_labels(self) -> int:
        """The largest label plus one: what a model needs as classes."""
        return int(self._labels.max()) + 1

    def check(self) -> None:
        """Look at the headers of all files.

        Raises:
            UserError: a file is absent or broken, or does not fit the others; the message says which and how.
        """
        first = self._arrays[self.names[0]]
        for name, array in self._arrays.items():
            if self._shape(array) != self._shape(first):
                raise UserError(
                    f"{self._file(name)} {array.shape} and {self._file(self.names[0])} {first.shape} differ"
                )

    def batches(self, name: str, severity: int, *, n: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the first ``n`` images (B, C, H, W) uint8 of one corruption and severity, and their labels (B,).

        Args:
            name: one of ``names``.
            severity: 1 to 5.
            n: at most ``per_severity``.
            batch_size: images at a time; no more are in memory.
        """
        start = (severity - 1) * self.per_severity
        channels, height, width = self.shape
        for low in range(start, start + n, batch_size):
            high = min(low + batch_size, start + n)
            pixels = torch.from_numpy(np.array(self._arrays[name][low:high]))
            labels = torch.from_numpy(self._labels[low:high].astype(np.int64))
            yield pixels.reshape(-1, height, width, channels).permute(0, 3, 1, 2).contiguous(), labels

    def sha256(self, n: int) -> str:
        """Return the hash of the corruptions' names and of the first ``n`` images and labels of each severity."""
        digest = hashlib.sha256(repr((self.names, self.shape, n)).encode())
        for name in self.names:
            for severity in range(1, SEVERITIES + 1):
                for pixels, labels in self.batches(name, severity, n=n, batch_size=_HASHED_AT_ONCE):
                    digest.update(pixels.numpy().data)
                    digest.update(labels.numpy().data)
        return digest.hexdigest()

    @cached_property
    def _labels(self) -> Array:
        array = self._mapped(_LABELS)
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise UserError(f"{self._file(_LABELS)} must hold integers (N,), got {array.dtype} {array.shape}")
        if len(array) == 0 or len(array) % SEVERITIES:
            raise UserError(f"{self._file(_LABELS)} must hold {SEVERITIES} severities of one length, got {len(array)}")
        if array.min() < 0:
            raise UserError(f"{self._file(_LABELS)} must hold class numbers from 0, got {array.min()}")
        return array

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        arrays = {}
        for name in self.names:
            array = self._mapped(name)
            if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
                expected = "uint8 (N, H, W, C) or (N, H, W)"
                raise UserError(f"{self._file(name)} must be {expected}, got {array.dtype} {array.shape}")
            if array.ndim == 4 and array.shape[3] > MOST_CHANNELS:
                hint = "; move the channels last" if array.shape[1] <= MOST_CHANNELS else ""
                raise UserError(
                    f"{self._file(name)} must have at most {MOST_CHANNELS} channels, got {array.shape}{hint}"
                )
            if len(array) != len(self._labels):
                raise UserError(
                    f"{self._file(name)} holds {len(array)} images, but labels.npy {len(self._labels)} labels"
                )
            arrays[name] = array
        return arrays

    def _mapped(self, name: str) -> Array:
        path = self._file(name)
        if not path.is_file():
            raise UserError(f"{path} does not exist; the folder needs one label for each image of a corruption")
        try:
            array: Array = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} is not a readable .npy file ({one_line(error)}); write it with numpy.save"
            ) from None
        return array

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npy"

    @staticmethod
    def _shape(array: Array) -> Shape:
        _, height, width, *channels = array.shape
        return (channels[0] if channels else 1), height, width
