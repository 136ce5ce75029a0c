"""Small data sets in the published file formats, so that each source can be tested without a network."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Files:
    """What was written: the name to load it by, and per split the NCHW pixels and the labels."""

    name: str
    images: dict[str, Array] = field(default_factory=dict)
    labels: dict[str, Array] = field(default_factory=dict)


def random_images(count: int, *shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, size=(count, *shape), dtype=np.uint8)


def random_files(name: str, *shape: int, classes: int) -> Files:
    images = {"train": random_images(10, *shape, seed=1), "test": random_images(4, *shape, seed=2)}
    labels = {split: (7 * np.arange(len(pixels)) + 3) % classes for split, pixels in images.items()}
    return Files(name, images, labels)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _pickled(content: dict[str, Any]) -> bytes:
    """Pickle as the published batches are: protocol 2, and numpy's align flag as an integer, which numpy warns of."""
    written = pickle.dumps(content, protocol=2)
    return written.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def write_cifar(root: Path, patch: pytest.MonkeyPatch, *, reader: str, classes: int) -> Files:
    """Write CIFAR batches and declare their checksums to torchvision as the published ones."""
    source = getattr(torchvision.datasets, reader)
    files = random_files(reader.lower(), 3, 32, 32, classes=classes)
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    key = "labels" if reader == "CIFAR10" else "fine_labels"
    for split in ("train", "test"):
        listed = getattr(source, f"{split}_list")
        parts = zip(
            np.array_split(files.images[split], len(listed)),
            np.array_split(files.labels[split], len(listed)),
            strict=True,
        )
        sums = []
        for (name, _), (images, labels) in zip(listed, parts, strict=True):
            (folder / name).write_bytes(_pickled({"data": images.reshape(-1, 3072), key: labels.tolist()}))
            sums.append([name, md5(folder / name)])
        patch.setattr(source, f"{split}_list", sums)
    meta = folder / source.meta["filename"]
    meta.write_bytes(_pickled({source.meta["key"]: [str(number) for number in range(classes)]}))
    patch.setattr(source, "meta", {**source.meta, "md5": md5(meta)})
    return files


def pack_cifar(root: Path, packed: Path, patch: pytest.MonkeyPatch, *, reader: str) -> Path:
    """Put the batches in ``root`` into the archive that gets downloaded."""
    source = getattr(torchvision.datasets, reader)
    archive: Path = packed / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / source.base_folder, source.base_folder)
    patch.setattr(source, "tgz_md5", md5(archive))
    return archive


def idx(array: Array) -> bytes:
    """Return an array of uint8 in MNIST's file format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, patch: pytest.MonkeyPatch, *, reader: str, packed: bool = False) -> Files:
    """Write the four idx files, or, ``packed``, their archives with the checksums declared to torchvision."""
    source = getattr(torchvision.datasets, reader)
    files = random_files("mnist" if reader == "MNIST" else "fashion-mnist", 1, 28, 28, classes=10)
    folder = root / reader / "raw"
    folder.mkdir(parents=True)
    contents = [idx(part) for split in ("train", "test") for part in (files.images[split][:, 0], files.labels[split])]
    resources = []
    for (name, _), content in zip(source.resources, contents, strict=True):
        path = folder / (name if packed else name.removesuffix(".gz"))
        path.write_bytes(gzip.compress(content) if packed else content)
        resources.append((name, md5(path)))
    if packed:
        patch.setattr(source, "resources", resources)
    return files


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> Files:
    """Write both Matlab files, in which the digit 0 has the label 10."""
    source = torchvision.datasets.SVHN
    files = random_files("svhn", 3, 32, 32, classes=10)
    root.mkdir(parents=True, exist_ok=True)
    declared = dict(source.split_list)
    for split, images in files.images.items():
        url, name, _ = declared[split]
        labels = np.where(files.labels[split] == 0, 10, files.labels[split])
        savemat(root / name, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)})
        declared[split] = [url, name, md5(root / name)]
    patch.setattr(source, "split_list", declared)
    return files


def write_npz(root: Path, patch: pytest.MonkeyPatch) -> Files:
    path = root / "some images.npz"
    files = random_files(f"npz:{path}", 3, 6, 5, classes=4)
    root.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"classes": np.array(["ant", "bee", "cow", "dog"])}
    for split in files.images:
        arrays[f"x_{split}"] = files.images[split].transpose(0, 2, 3, 1)
        arrays[f"y_{split}"] = files.labels[split].astype(np.int32)
    np.savez_compressed(path, **arrays)
    return files


def save_image(pixels: Array, path: Path) -> None:
    """Save an image (C, H, W), grey or RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy()).save(path)


def write_folder(root: Path, patch: pytest.MonkeyPatch, *, kind: str = "folder", test: str = "test") -> Files:
    files = random_files(f"{kind}:{root}", 3, 6, 5, classes=3)
    ordered = Files(files.name)
    for split, images in files.images.items():
        labels = files.labels[split]
        turn = np.array([np.sum(labels[:row] == label) for row, label in enumerate(labels)])
        order = np.lexsort((labels, turn))
        ordered.images[split], ordered.labels[split] = images[order], files.labels[split][order]
        for row, (pixels, label) in enumerate(zip(images, files.labels[split], strict=True)):
            suffix = (".png", ".bmp", ".PNG")[row % 3]
            folder = root / (test if split == "test" else split) / f"class {'abc'[label]}"
            save_image(pixels, folder / f"{row:03d}{suffix}")
    return ordered


BUILDERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Files]] = {
    "cifar10": lambda root, patch: write_cifar(root, patch, reader="CIFAR10", classes=10),
    "cifar100": lambda root, patch: write_cifar(root, patch, reader="CIFAR100", classes=100),
    "fashion-mnist": lambda root, patch: write_mnist(root, patch, reader="FashionMNIST"),
    "folder:PATH": write_folder,
    "imagenet:PATH": lambda root, patch: write_folder(root, patch, kind="imagenet", test="val"),
    "mnist": lambda root, patch: write_mnist(root, patch, reader="MNIST"),
    "npz:PATH": write_npz,
    "svhn": write_svhn,
}


def build(name: str, root: Path, patch: pytest.MonkeyPatch) -> Files:
    """Write the files of the registered data set ``name``; one that needs none is only named."""
    return BUILDERS[name](root, patch) if name in BUILDERS else Files(name)
