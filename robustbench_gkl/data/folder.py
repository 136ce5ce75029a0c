"""Images from files sorted into one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.base import DATASETS, Dataset, ImageSet
from robustbench_gkl.data.facts import SPLITS, Split
from robustbench_gkl.data.resizing import UNCHANGED, Fit, Pixels

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def _converted(image: Image.Image) -> Image.Image:
    """Return an image in one of the modes L and RGB; the alpha channel is dropped."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"8 bits a channel are expected, this is mode {image.mode}")
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _read(file: Path) -> Pixels:
    """Return the pixels of an image file, (C, H, W) uint8.

    Raises:
        UserError: not an image, a damaged one, or one with more than 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.asarray(_converted(image))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({one_line(error)}); replace or remove it") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _visible(folder: Path) -> list[Path]:
    return [item for item in folder.iterdir() if not item.name.startswith(".")]


def _described(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


@dataclass(frozen=True)
class ImageFolder:
    """Image files in ``PATH/train/CLASS/`` and ``PATH/test/CLASS/``.

    The classes are the folder names of the training split, sorted (of the test split where there is no other). After
    the fit all images have one size, and all are grey or all RGB; palettes are resolved and alpha is
    dropped. Files are taken in the order of their names; hidden ones and files that are no images are passed over.
    """

    path: Path
    fit: Fit = UNCHANGED
    """How images are brought to one size."""
    test: str = "test"
    """The folder of the test images."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class folders' names, sorted.

        Raises:
            UserError: no such folder, no class folders, or test classes that have no training folder.
        """
        names = [self._class_folders(split) for split in self._splits]
        if extra := sorted(set(names[-1]) - set(names[0])):
            raise UserError(f"{self.path}: {self.test} has classes without a folder in train: {', '.join(extra)}")
        return tuple(names[0])

    @cached_property
    def shape(self) -> Shape:
        """(channels, height, width) of the first image, resized and cropped.

        Raises:
            UserError: no image, or one that cannot be read.
        """
        channels, height, width = self._pixels(self._first).shape
        return channels, height, width

    def load(self, split: Split) -> ImageSet:
        """Return the images of ``PATH/SPLIT``: the first file of each class, then the second, and so on.

        Files are sorted by name. Taking the classes in turn makes the first N images a fair sample.

        Raises:
            UserError: an empty folder, an unreadable image, or images of several sizes or modes; files are named.
        """
        by_class = [self._files(split, name) for name in self.classes]
        turns = sorted((turn, label) for label, files in enumerate(by_class) for turn in range(len(files)))
        files = [(by_class[label][turn], label) for turn, label in turns]
        if not files:
            raise UserError(f"{self._of(split)} holds no images; expected CLASS/*{', *'.join(SUFFIXES)}")
        images = np.empty((len(files), *self.shape), dtype=np.uint8)
        for row, (file, _) in enumerate(files):
            pixels = self._pixels(file)
            if pixels.shape != self.shape:
                raise UserError(
                    f"images must have one size and mode: {self._first} is {_described(self.shape)} but {file} "
                    f"is {_described(pixels.shape)}; resize (--resize, --crop) or convert them first"
                )
            images[row] = pixels
        labels = torch.tensor([label for _, label in files])
        return ImageSet(torch.from_numpy(images), labels, self.classes)

    def _pixels(self, file: Path) -> Pixels:
        """Return the pixels (C, H, W) of a file, resized and cropped."""
        return self.fit.image(_read(file))

    @cached_property
    def _splits(self) -> list[Split]:
        """The splits that there are, at least one."""
        present = [split for split in SPLITS if self._of(split).is_dir()]
        if not present:
            problem = f"has neither train/ nor {self.test}/ in it" if self.path.is_dir() else "is not a folder"
            raise UserError(f"{self.path} {problem}; expected {self.path}/train/CLASS/*.png")
        return present

    @cached_property
    def _first(self) -> Path:
        """The image that all others are compared with."""
        return self._files(self._splits[0], self.classes[0])[0]

    def _of(self, split: Split) -> Path:
        return self.path / (self.test if split == "test" else split)

    def _class_folders(self, split: Split) -> list[str]:
        folder = self._of(split)
        names = sorted(item.name for item in _visible(folder) if item.is_dir())
        if not names:
            raise UserError(f"{folder} holds no class folders; expected {folder}/CLASS/*.png")
        return names

    def _files(self, split: Split, name: str) -> list[Path]:
        """Return the image files of a class, sorted; none where a split has no folder of that class."""
        folder = self._of(split) / name
        if not folder.is_dir():
            return []
        files = [file for file in _visible(folder) if file.suffix.lower() in SUFFIXES]
        if not files:
            raise UserError(f"{folder} holds no images (*{', *'.join(SUFFIXES)}); fill or remove it")
        return sorted(files, key=lambda file: file.name)


@DATASETS.register("folder:PATH", pattern=r"folder:(?P<path>.+)")
def image_folder(*, path: str, data_dir: Path) -> Dataset:
    """Image files in PATH/train/CLASS/ and PATH/test/CLASS/, all of one size."""
    return ImageFolder(Path(path).expanduser())
