"""The published data sets, downloaded and read by torchvision."""

from __future__ import annotations

import http.client
import io
import logging
import socket
import tarfile
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data.base import DATASETS, Dataset, ImageSet
from robustbench_gkl.data.facts import FACTS, Split

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0

# What torchvision, and what it calls, raises for lost connections, wrong checksums and damaged files.
_FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zlib.error,
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and warnings, and let a stalled connection fail."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def downloading_alone(folder: Path) -> Iterator[None]:
    """Keep other processes, such as the other ranks of a run, from downloading into ``folder`` meanwhile.

    Where files cannot be locked this does nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".download.lock").open("w") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class TorchvisionSet(ABC):
    """A data set that torchvision downloads and reads.

    Files that are present and intact are used without a network; otherwise they are downloaded into ``data_dir``,
    where torchvision itself expects them.

    Attributes:
        name: what it is called here.
        reader: its class in torchvision.datasets.
        data_dir: torchvision's ``root``.
    """

    name: str
    reader: str
    data_dir: Path

    @property
    def shape(self) -> Shape:
        """(channels, height, width)."""
        return FACTS[self.name].shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in label order."""
        return FACTS[self.name].classes

    @abstractmethod
    def _read(self, split: Split, *, download: bool) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64."""

    @abstractmethod
    def _archives(self, split: Split) -> dict[Path, str]:
        """Return the files that get downloaded, and from where."""

    def load(self, split: Split) -> ImageSet:
        """Return all images of a split; downloads them at the first time.

        A download is announced to this module's logger, and to nothing else. Only one process at a time downloads.

        Raises:
            UserError: no network, a damaged download or damaged files; the message says which files go where.
        """
        try:
            images, labels = self._read_or_download(split)
            if tuple(images.shape[1:]) != self.shape:
                raise UserError(f"images must be {self.shape}, got {tuple(images.shape[1:])}")
            return ImageSet(images, labels, self.classes)
        except _FAILURES as error:
            raise self._failure(split, error) from error

    def _read_or_download(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) uint8 and labels (N,) int64."""
        # The first attempt also fails while another rank is writing the files; the second one waits for it.
        with suppress(*_FAILURES), _quiet():
            return self._read(split, download=False)
        logger.info("%s is not complete in %s: downloading it", self.name, self.data_dir)
        with downloading_alone(self.data_dir), _quiet():
            return self._read(split, download=True)

    def _failure(self, split: Split, error: Exception) -> UserError:
        archives = self._archives(split)
        reason = str(error) if isinstance(error, UserError) else one_line(error)
        if pages := [path.name for path in archives if _is_web_page(path)]:
            reason = f"a web page came instead of {pages[0]}"
        files = ", ".join(path.name for path in archives)
        path, url = next(iter(archives.items()))
        return UserError(
            f"cannot load {self.name}: {reason}; expected {files} in {path.parent}: remove damaged files there and run "
            f"again with a network, or put good ones there by hand (from {url.rpartition('/')[0]}/)"
        )

    @property
    def _class(self) -> Any:
        """The class in torchvision, which is imported only where it is needed."""
        from torchvision import datasets

        return getattr(datasets, self.reader)


def _is_web_page(path: Path) -> bool:
    """Return whether a file begins as HTML does."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    return False


class MnistLike(TorchvisionSet):
    """MNIST and what comes in its format: four idx files in ``READER/raw``."""

    def _read(self, split: Split, *, download: bool) -> tuple[Tensor, Tensor]:
        source = self._class(self.data_dir, train=split == "train", download=download)
        return source.data[:, None], source.targets

    def _archives(self, split: Split) -> dict[Path, str]:
        folder = self.data_dir / self.reader / "raw"
        return {folder / name: f"{self._class.mirrors[0]}{name}" for name, _ in self._class.resources}


class Cifar(TorchvisionSet):
    """CIFAR-10 and CIFAR-100: pickled batches, which are opened only if their published checksums agree."""

    def _read(self, split: Split, *, download: bool) -> tuple[Tensor, Tensor]:
        source = self._class(self.data_dir, train=split == "train", download=download)
        images = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
        return torch.from_numpy(images), torch.tensor(source.targets)

    def _archives(self, split: Split) -> dict[Path, str]:
        return {self.data_dir / self._class.filename: self._class.url}


class Svhn(TorchvisionSet):
    """The cropped house numbers: a Matlab file a split."""

    def _read(self, split: Split, *, download: bool) -> tuple[Tensor, Tensor]:
        source = self._class(self.data_dir, split=split, download=download)
        return torch.from_numpy(np.ascontiguousarray(source.data)), torch.from_numpy(source.labels)

    def _archives(self, split: Split) -> dict[Path, str]:
        url, name, _ = self._class.split_list[split]
        return {self.data_dir / name: url}


@DATASETS.register("mnist")
def mnist(*, data_dir: Path) -> Dataset:
    """70,000 grey 28x28 images of handwritten digits (10,000 to test on)."""
    return MnistLike("mnist", "MNIST", data_dir)


@DATASETS.register("fashion-mnist")
def fashion_mnist(*, data_dir: Path) -> Dataset:
    """70,000 grey 28x28 images of clothes in 10 classes (10,000 to test on)."""
    return MnistLike("fashion-mnist", "FashionMNIST", data_dir)


@DATASETS.register("svhn")
def svhn(*, data_dir: Path) -> Dataset:
    """99,289 colour 32x32 images of house numbers' digits (26,032 to test on)."""
    return Svhn("svhn", "SVHN", data_dir)


@DATASETS.register("cifar10")
def cifar10(*, data_dir: Path) -> Dataset:
    """60,000 colour 32x32 images of animals and vehicles in 10 classes (10,000 to test on)."""
    return Cifar("cifar10", "CIFAR10", data_dir)


@DATASETS.register("cifar100")
def cifar100(*, data_dir: Path) -> Dataset:
    """60,000 colour 32x32 images of everyday things in 100 classes (10,000 to test on)."""
    return Cifar("cifar100", "CIFAR100", data_dir)
