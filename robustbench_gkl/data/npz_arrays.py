"""The arrays in an .npz file, read without torch: headers alone where that is enough."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.facts import SPLITS, Split

MOST_CHANNELS = 4
MOST_CLASSES = 100_000

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Header:
    """An array's header: its ``shape``, ``dtype`` and whether the first index runs fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open ``path``; whatever zipfile and numpy raise about its contents becomes a UserError."""
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem}; expected an .npz file with x_train, y_train, x_test and y_test")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a readable .npz file ({one_line(error)}); write it with numpy.savez") from error


def read_header(stream: IO[bytes]) -> Header:
    """Read the header at the start of a .npy ``stream``, which is left at the first byte of the array."""
    version = np.lib.format.read_magic(stream)
    one = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    return Header(shape, dtype, fortran_order)


@dataclass(frozen=True)
class NpzArrays:
    """The arrays ``x_train y_train x_test y_test`` of an .npz file, and ``classes`` where it has them.

    Images are uint8 (N, H, W) or (N, H, W, C); labels are integers (N,) from 0; ``classes`` are strings (K,), by
    default the numbers up to the largest label. One split may be absent. Nothing is ever unpickled, and the shape is
    read from the headers alone.
    """

    path: Path

    @cached_property
    def shape(self) -> Shape:
        """(channels, height, width), from the headers of the image arrays.

        Raises:
            UserError: no images, or images that are not uint8 NHW or NHWC, or that differ between the splits.
        """
        names = [name for split in SPLITS if (name := f"x_{split}") in self._headers]
        if not names:
            raise self._missing("x_train")
        shapes = {name: self._image_shape(name) for name in names}
        if len(set(shapes.values())) > 1:
            train, test = (self._headers[name].shape for name in names)
            raise UserError(f"{self.path}: x_train {train} and x_test {test} must hold images of one shape")
        return shapes[names[0]]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names in ``classes``, or "0", "1", ... up to the largest label of either split.

        Raises:
            UserError: names that are not strings; labels that are not integers from 0.
        """
        if "classes" in self._headers:
            return self._class_names()
        names = [name for split in SPLITS if (name := f"y_{split}") in self._headers]
        if not names:
            raise self._missing("y_train")
        top = max(int(self._labels(name).max()) for name in names)
        return tuple(map(str, range(top + 1)))

    def size(self, split: Split) -> int:
        """Return the number of images of a split, from the header of its labels.

        Raises:
            UserError: the file or the labels are absent or broken.
        """
        return self._label_header(f"y_{split}").shape[0]

    def arrays(self, split: Split) -> tuple[Array, Array]:
        """Return the images of ``x_SPLIT``, (N, H, W, C) uint8, and the labels of ``y_SPLIT``, (N,) int64.

        Raises:
            UserError: the file or an array is absent or broken, or arrays do not fit each other; the message says how.
        """
        x, y = f"x_{split}", f"y_{split}"
        for name in (x, y):
            if name not in self._headers:
                raise self._missing(name)
        channels, height, width = self.shape
        labels = self._labels(y)
        count = self._headers[x].shape[0]
        if len(labels) != count:
            raise UserError(f"{self.path}: {x} holds {count} images but {y} {len(labels)} labels")
        if labels.max() >= len(self.classes):
            known = len(self.classes)
            raise UserError(f"{self.path}: {y} must lie in 0..{known - 1} ({known} classes), got {labels.max()}")
        return self._array(x).reshape(count, height, width, channels), labels

    @cached_property
    def _headers(self) -> dict[str, Header]:
        headers = {}
        with _archive(self.path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        headers[member.removesuffix(".npy")] = read_header(stream)
        return headers

    def _array(self, name: str) -> Array:
        """Read one array; its header has been seen."""
        if self._headers[name].dtype.hasobject:
            raise UserError(f"{self.path}: {name} holds Python objects, which are never unpickled; save a plain array")
        with _archive(self.path) as archive, archive.open(f"{name}.npy") as stream:
            array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return array

    def _missing(self, name: str) -> UserError:
        found = ", ".join(sorted(self._headers)) or "nothing"
        return UserError(f"{self.path} lacks the array {name} (it holds {found})")

    def _image_shape(self, name: str) -> Shape:
        header = self._headers[name]
        if header.dtype != np.uint8:
            raise self._wrong_pixels(name)
        shape = header.shape if len(header.shape) != 3 else (*header.shape, 1)
        if len(shape) != 4 or 0 in shape[1:] or shape[3] > MOST_CHANNELS:
            swapped = len(shape) == 4 and shape[1] <= MOST_CHANNELS
            hint = "; move the channels last" if swapped else ""
            expected = f"(N, H, W) or (N, H, W, C) with at most {MOST_CHANNELS} channels"
            raise UserError(f"{self.path}: {name} must be {expected}, got {header.shape}{hint}")
        if shape[0] == 0:
            raise UserError(f"{self.path}: {name} holds no images")
        return shape[3], shape[1], shape[2]

    def _wrong_pixels(self, name: str) -> UserError:
        dtype = self._headers[name].dtype
        got, hint = str(dtype), ""
        if dtype.kind == "f":
            hint = "; images in [0, 1] become that by (255 * x).round().astype('uint8')"
            if np.isnan(self._array(name)).any():
                got += " with NaN"
        return UserError(f"{self.path}: {name} must be uint8 in 0..255, got {got}{hint}")

    def _label_header(self, name: str) -> Header:
        if name not in self._headers:
            raise self._missing(name)
        header = self._headers[name]
        if header.dtype.kind not in "iu":
            raise UserError(f"{self.path}: {name} must hold integers, got {header.dtype}")
        if len(header.shape) != 1:
            raise UserError(f"{self.path}: {name} must have the shape (N,), got {header.shape}")
        if header.shape[0] == 0:
            raise UserError(f"{self.path}: {name} holds no labels")
        return header

    def _labels(self, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        self._label_header(name)
        labels = self._array(name)
        if labels.min() < 0 or labels.max() >= MOST_CLASSES:
            expected, got = f"0..{MOST_CLASSES - 1}", f"{labels.min()}..{labels.max()}"
            raise UserError(f"{self.path}: {name} must hold class numbers in {expected}, got {got}")
        return labels.astype(np.int64)

    def _class_names(self) -> tuple[str, ...]:
        header = self._headers["classes"]
        if header.dtype.kind not in "US" or len(header.shape) != 1 or header.shape[0] == 0:
            raise UserError(f"{self.path}: classes must be strings (K,), got {header.dtype} {header.shape}")
        names = self._array("classes")
        return tuple(map(str, np.char.decode(names, "utf-8", "replace") if header.dtype.kind == "S" else names))
