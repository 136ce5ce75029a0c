"""Images with labels, the protocol of data sets, and their registry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import permutation
from robustbench_gkl.core.registry import Registry, check_keywords
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.facts import BLOCK, Split

_ROWS_AT_ONCE = 1024
"""Images that are copied at a time while a set is hashed."""


def to_unit(images: Tensor) -> Tensor:
    """Return images (...) as float32 in [0, 1]: uint8 is divided by 255, floats are taken as they are."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.to(torch.float32)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        images: (N, C, H, W) uint8, or float32 in [0, 1].
        labels: (N,) int64 in {0, ..., K - 1}.
        classes: the K class names.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise UserError(
                f"images must be uint8 or float32 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.images.is_floating_point() and not bool(((self.images >= 0) & (self.images <= 1)).all()):
            raise UserError("images of floats must lie in [0, 1]")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            got = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise UserError(f"{len(self.images)} images need as many int64 labels, got {got}")
        if len(self.images) == 0:
            raise UserError("the data set has no images")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise UserError(f"labels must lie in 0..{len(self.classes) - 1}, got {low}..{high}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size, dtype = "x".join(map(str, self.shape)), str(self.images.dtype).removeprefix("torch.")
        return f"ImageSet({len(self):,} images of {size}, {dtype}, {len(self.classes)} classes)"

    @property
    def shape(self) -> Shape:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def sha256(self) -> str:
        """The hash of shape, pixels and labels."""
        return self.sha256_of(torch.arange(len(self)))

    def sha256_of(self, rows: Tensor) -> str:
        """Return the hash of the images at the positions ``rows`` (n,): that of the set which holds them alone."""
        digest = hashlib.sha256(repr((len(rows), *self.shape)).encode())
        for some in rows.split(_ROWS_AT_ONCE):  # type: ignore[no-untyped-call]
            digest.update(self.images[some].cpu().contiguous().numpy().data)
        digest.update(self.labels[rows].cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """A short hash of pixels and labels of each 50 images, in order; the rest is left out."""
        found = []
        for start in range(0, len(self) - BLOCK + 1, BLOCK):
            digest = hashlib.sha256(repr(self.shape).encode())
            digest.update(self.images[start : start + BLOCK].cpu().contiguous().numpy().data)
            digest.update(self.labels[start : start + BLOCK].cpu().contiguous().numpy().data)
            found.append(digest.hexdigest()[:16])
        return tuple(found)

    def take(self, rows: Tensor) -> ImageSet:
        """Return the images at the positions ``rows`` (n,), as a set of their own."""
        return ImageSet(self.images[rows], self.labels[rows], self.classes)


class Dataset(Protocol):
    """A source of images. ``shape`` and ``classes`` must not need the images where they are published facts."""

    @property
    def shape(self) -> Shape:
        """(channels, height, width)."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in label order."""
        ...

    def load(self, split: Split) -> ImageSet:
        """Return all images of a split.

        Raises:
            UserError: files absent or broken; the message says which and how to get them.
        """
        ...


DatasetFactory = Callable[..., Dataset]


def _check(name: str, factory: DatasetFactory) -> None:
    check_keywords("dataset", name, factory, ("data_dir",))


DATASETS: Registry[DatasetFactory] = Registry("dataset", "robustbench_gkl.data", check=_check)


def load_dataset(name: str, *, data_dir: Path = Path("data")) -> Dataset:
    """Return the data set called ``name`` (``"digits"``, ``"cifar10"``, ``"npz:PATH"``, ``"folder:PATH"``).

    Args:
        name: a registered name.
        data_dir: where downloaded data sets are kept.

    Raises:
        UserError: unknown name.
    """
    factory, parameters = DATASETS.resolve(name)
    return factory(data_dir=data_dir.expanduser(), **parameters)


def train_validation_split(count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Hold out a validation part of ``count`` training images.

    Which images are held out depends on their number alone, so all runs on a data set select on the same ones.

    Args:
        count: the number of training images.
        fraction: share held out, 0 <= fraction < 1; if it is not 0, at least one image is held out and one is left.

    Returns:
        The positions (n,) int64 of the training part and of the validation part, both rising; with fraction 0 the
        latter is empty.

    Raises:
        UserError: a fraction out of range, or a single image to split.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the validation fraction must lie in [0, 1), got {fraction}")
    if fraction == 0:
        return torch.arange(count), torch.arange(0)
    if count == 1:
        raise UserError("a single training image cannot be split; use a validation fraction of 0")
    held = min(max(1, round(count * fraction)), count - 1)
    order = permutation(0, "validation", n=count)
    return order[held:].sort().values, order[:held].sort().values
