"""Folders in the layout of CIFAR-10-C, read piece by piece."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corruption_files import write_folder

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data.corruptions import CorruptionFolder


@pytest.mark.parametrize("shape", [(6, 8, 3), (6, 8, 1), (6, 8)])
def test_severities_come_in_order(shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays, labels = write_folder(tmp_path, names=("fog", "snow"), m=7, shape=shape)
    folder = CorruptionFolder(tmp_path)
    folder.check()
    assert folder.names == ("fog", "snow")
    assert folder.per_severity == 7
    assert folder.shape == (shape[2] if len(shape) == 3 else 1, 6, 8)
    assert folder.most_labels == labels.max() + 1
    for severity in range(1, 6):
        batches = list(folder.batches("snow", severity, n=5, batch_size=3))
        assert [len(images) for images, _ in batches] == [3, 2]
        images, found = (torch.cat(parts) for parts in zip(*batches, strict=True))
        expected = arrays["snow"].reshape(5, 7, 6, 8, -1)[severity - 1, :5].transpose(0, 3, 1, 2)
        assert images.dtype == torch.uint8
        assert np.array_equal(images.numpy(), expected)
        assert np.array_equal(found.numpy(), labels.reshape(5, 7)[severity - 1, :5])


def test_the_hash_is_of_what_is_evaluated(tmp_path: Path) -> None:
    arrays, _ = write_folder(tmp_path, names=("fog", "snow"), m=7)
    before = CorruptionFolder(tmp_path).sha256(5)
    assert before == CorruptionFolder(tmp_path).sha256(5)
    assert before != CorruptionFolder(tmp_path).sha256(6)
    arrays["fog"][6] ^= 1
    np.save(tmp_path / "fog.npy", arrays["fog"])
    assert CorruptionFolder(tmp_path).sha256(5) == before
    arrays["fog"][4] ^= 1
    np.save(tmp_path / "fog.npy", arrays["fog"])
    assert CorruptionFolder(tmp_path).sha256(5) != before
    arrays["fog"][4] ^= 1
    np.save(tmp_path / "fog.npy", arrays["fog"])
    (tmp_path / "fog.npy").rename(tmp_path / "frost.npy")
    assert CorruptionFolder(tmp_path).sha256(5) != before


def test_files_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(tmp_path / "fog.npy", mode="w+", dtype=np.uint8, shape=(50000, 32, 32, 3))
    del images
    np.save(tmp_path / "labels.npy", np.arange(50000) % 10)
    tracemalloc.start()
    try:
        folder = CorruptionFolder(tmp_path)
        folder.check()
        folder.sha256(10)
        for batch, _ in folder.batches("fog", 5, n=10000, batch_size=100):
            assert len(batch) == 100
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10e6


def cut(folder: Path) -> None:
    content = (folder / "fog.npy").read_bytes()
    (folder / "fog.npy").write_bytes(content[: len(content) // 2])


def archived(folder: Path) -> None:
    with (folder / "fog.npy").open("wb") as file:
        np.savez(file, images=np.zeros(3))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no labels": (lambda folder: (folder / "labels.npy").unlink(), "labels.npy does not exist"),
    "labels alone": (lambda folder: (folder / "fog.npy").unlink(), "no CORRUPTION.npy"),
    "labels of another number": (lambda folder: np.save(folder / "labels.npy", np.zeros(30, int)), "30 labels"),
    "length not five severities": (lambda folder: np.save(folder / "labels.npy", np.zeros(34, int)), "5 severities"),
    "no labels at all": (lambda folder: np.save(folder / "labels.npy", np.zeros(0, int)), "5 severities"),
    "labels that are none": (lambda folder: np.save(folder / "labels.npy", np.zeros(35)), "integers"),
    "labels below zero": (lambda folder: np.save(folder / "labels.npy", np.full(35, -1)), "from 0"),
    "images in [0, 1]": (lambda folder: np.save(folder / "fog.npy", np.zeros((35, 8, 8, 3))), "uint8"),
    "flat images": (lambda folder: np.save(folder / "fog.npy", np.zeros((35, 64), np.uint8)), "(N, H, W, C)"),
    "channels first": (
        lambda folder: np.save(folder / "fog.npy", np.zeros((35, 3, 8, 8), np.uint8)),
        "move the channels last",
    ),
    "images of two sizes": (
        lambda folder: np.save(folder / "snow.npy", np.zeros((35, 9, 9, 3), np.uint8)),
        "differ",
    ),
    "a web page": (lambda folder: (folder / "fog.npy").write_text("<html>"), "not a readable .npy"),
    "pickled objects": (
        lambda folder: np.save(folder / "fog.npy", np.array([{}], dtype=object), allow_pickle=True),
        "not a readable .npy",
    ),
    "half a file": (cut, "not a readable .npy"),
    "an empty file": (lambda folder: (folder / "fog.npy").write_bytes(b""), "not a readable .npy"),
    "an archive": (archived, "not a readable .npy"),
}


@pytest.mark.parametrize(("prepare", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_folders_are_refused(prepare: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    write_folder(tmp_path, names=("fog",), m=7)
    prepare(tmp_path)
    with pytest.raises(UserError) as error:
        CorruptionFolder(tmp_path).check()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        CorruptionFolder(tmp_path / "none").check()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        CorruptionFolder(tmp_path / "file").check()
