"""Generated images for training: millions of them, mapped from files and never loaded as a whole."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.npz_arrays import Array, read_header

IMAGE, LABEL = "image", "label"
_LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name."""
_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class _Mapped:
    """An array in a file, of which only the rows that are read are loaded into memory."""

    array: Array
    memory: mmap.mmap

    def take(self, rows: Array) -> Array:
        """Return the rows (n, ...) at positions ``rows`` (n,), copied; their pages are released a few rows at a time.

        A system may map up to 2 MiB of its file cache for each row that is touched.
        """
        taken = np.empty((len(rows), *self.array.shape[1:]), dtype=self.array.dtype)
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            taken[some] = self.array[rows[some]]
            if hasattr(mmap, "MADV_DONTNEED"):  # else they stay resident until the system wants them back
                self.memory.madvise(mmap.MADV_DONTNEED)
        return taken


@dataclass(frozen=True)
class _File:
    images: _Mapped
    labels: _Mapped


class SyntheticImages:
    """Generated images in several files, seen as one.

    Each file is an uncompressed ``.npz`` with the arrays ``image``, uint8 (N, H, W, C), and ``label``, integers (N,);
    or a folder with ``image.npy`` and ``label.npy``, which is what unpacking such a file gives.

    Args:
        paths: at least one file or folder.
        shape: (channels, height, width) that the images must have.
        num_classes: labels must be below this; they are checked when they are read.

    Raises:
        UserError: an absent, compressed or broken file, or arrays of the wrong shape or type.
    """

    def __init__(self, paths: Sequence[str | Path], *, shape: Shape, num_classes: int) -> None:
        self._paths = [Path(path).expanduser() for path in paths]
        self._num_classes = num_classes
        self._parts = [_open_part(path, shape) for path in self._paths]
        self._ends = np.cumsum([len(part.labels.array) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (n, C, H, W) uint8 and labels (n,) int64 at positions ``rows`` (n,) over all files.

        Raises:
            UserError: a label out of range.
        """
        wanted = rows.numpy()
        owners = np.searchsorted(self._ends, wanted, side="right")
        _, height, width, channels = self._parts[0].images.array.shape
        images = np.empty((len(wanted), height, width, channels), dtype=np.uint8)
        labels = np.empty(len(wanted), dtype=np.int64)
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            part = self._parts[owner]
            local = wanted[mine] - (self._ends[owner] - len(part.labels.array))
            images[mine] = part.images.take(local)
            labels[mine] = part.labels.take(local)
            low, high = labels[mine].min(), labels[mine].max()
            if low < 0 or high >= self._num_classes:
                raise UserError(
                    f"{self._paths[owner]}: {LABEL} must lie in 0..{self._num_classes - 1}, got {low}..{high}; "
                    f"is it made for another data set?"
                )
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def files_of(path: str | Path) -> list[Path]:
    """Return the files that hold generated images: ``path`` itself, or those in such a folder."""
    found = Path(path).expanduser()
    return [found / f"{name}.npy" for name in (IMAGE, LABEL)] if found.is_dir() else [found]


def _open_part(path: Path, shape: Shape) -> _File:
    images, labels = _open_array(path, IMAGE), _open_array(path, LABEL)
    channels, height, width = shape
    pixels = images.array
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, channels) or len(pixels) == 0:
        raise UserError(
            f"{path}: {IMAGE} must be uint8 (N, {height}, {width}, {channels}) like the real images, "
            f"got {pixels.dtype} {pixels.shape}"
        )
    if labels.array.dtype.kind not in "iu" or labels.array.shape != pixels.shape[:1]:
        raise UserError(
            f"{path}: {LABEL} must be {len(pixels)} integers, got {labels.array.dtype} {labels.array.shape}"
        )
    return _File(images, labels)


def _open_array(path: Path, name: str) -> _Mapped:
    """Map the array ``name`` of an .npz file, or of a folder of .npy files."""
    file = path / f"{name}.npy" if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            if file == path:
                stream.seek(_member_offset(path, f"{name}.npy", stream))
            header = read_header(stream)
            if header.dtype.hasobject or header.fortran_order:
                raise UserError(f"{path}: {name} must be a plain array in C order; save it again with numpy.savez")
            start = stream.tell()
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read the generated images in {path} ({one_line(error)}); expected an uncompressed .npz file with "
            f"{IMAGE} and {LABEL}, or a folder with {IMAGE}.npy and {LABEL}.npy"
        ) from error
    count = int(np.prod(header.shape, dtype=np.int64))
    if start + count * header.dtype.itemsize > len(memory):
        raise UserError(f"{path} is cut short: {name} needs {count * header.dtype.itemsize} bytes; fetch it again")
    if hasattr(mmap, "MADV_RANDOM"):  # rows are read here and there: reading ahead would only cost
        memory.madvise(mmap.MADV_RANDOM)
    flat = np.frombuffer(memory, dtype=header.dtype, count=count, offset=start)
    return _Mapped(flat.reshape(header.shape), memory)


def _member_offset(path: Path, member: str, stream: IO[bytes]) -> int:
    """Return where the bytes of a stored zip member begin in its file."""
    with zipfile.ZipFile(path) as archive:
        try:
            info = archive.getinfo(member)
        except KeyError:
            found = ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "nothing"
            raise UserError(f"{path} lacks the array {member.removesuffix('.npy')} (it holds {found})") from None
    if info.compress_type != zipfile.ZIP_STORED:
        folder = path.with_suffix("")
        raise UserError(
            f"{path} is compressed and cannot be read in place; unpack it once with "
            f"'python -m zipfile -e {path} {folder}' and give {folder} instead"
        )
    # The local header repeats the name and may pad with an extra field of its own length.
    stream.seek(info.header_offset)
    local = stream.read(_LOCAL_HEADER)
    return (
        info.header_offset
        + _LOCAL_HEADER
        + int.from_bytes(local[26:28], "little")
        + int.from_bytes(local[28:30], "little")
    )
