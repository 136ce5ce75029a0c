from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data.synthetic import SyntheticImages

SHAPE = (3, 6, 5)


def arrays(count: int, *, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "image": generator.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8),
        "label": generator.integers(0, 7, count),
    }


def opened(*paths: Path) -> SyntheticImages:
    return SyntheticImages(paths, shape=SHAPE, num_classes=7)


def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    parts = [arrays(count, seed=count) for count in (4, 9, 1)]
    paths = []
    for number, part in enumerate(parts):
        # Other members may come first, and label types differ.
        np.savez(
            tmp_path / f"{number}.npz", extra=np.arange(number), **(part | {"label": part["label"].astype(np.int16)})
        )
        paths.append(tmp_path / f"{number}.npz")
    source = opened(*paths)
    assert len(source) == 14
    rows = torch.tensor([13, 0, 4, 12, 3, 4])
    images, labels = source.take(rows)
    every = np.concatenate([part["image"] for part in parts]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images.numpy(), every[rows.numpy()])
    np.testing.assert_array_equal(labels.numpy(), np.concatenate([part["label"] for part in parts])[rows.numpy()])
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64


def test_a_compressed_file_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    part = arrays(5)
    path = tmp_path / "small.npz"
    np.savez_compressed(path, **part)
    with pytest.raises(UserError, match="compressed and cannot be read in place") as caught:
        opened(path)
    command = str(caught.value).split("'")[1].split()
    subprocess.run([sys.executable, *command[1:]], check=True)
    images, _ = opened(tmp_path / "small").take(torch.tensor([4, 1]))
    np.testing.assert_array_equal(images.numpy(), part["image"][[4, 1]].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "lacks the array image .it holds label."),
        ({"label": None}, "lacks the array label"),
        ({"image": np.zeros((5, 6, 5, 3))}, "image must be uint8 .N, 6, 5, 3. like the real images, got float64"),
        ({"image": np.zeros((5, 5, 6, 3), dtype=np.uint8)}, "like the real images"),
        ({"image": np.asfortranarray(arrays(5)["image"])}, "C order"),
        ({"label": np.zeros(4, dtype=np.int64)}, "label must be 5 integers, got int64 .4,."),
        ({"label": np.zeros(5)}, "label must be 5 integers, got float64"),
        ({"label": np.array([None] * 5)}, "plain array"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {key: value for key, value in (arrays(5) | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "bad.npz")


def test_labels_of_another_data_set_are_found_when_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **(arrays(5) | {"label": np.array([0, 1, 2, 7, 3])}))
    source = opened(tmp_path / "x.npz")
    source.take(torch.tensor([0, 4]))
    with pytest.raises(UserError, match=r"label must lie in 0..6, got 1..7"):
        source.take(torch.tensor([1, 3]))


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.npz .*FileNotFoundError"):
        opened(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match=r"text\.npz .*BadZipFile"):
        opened(tmp_path / "text.npz")
    folder = tmp_path / "cut"
    folder.mkdir()
    np.save(folder / "image.npy", arrays(5)["image"])
    np.save(folder / "label.npy", arrays(5)["label"])
    content = (folder / "image.npy").read_bytes()
    (folder / "image.npy").write_bytes(content[:-1])
    with pytest.raises(UserError, match="cut short"):
        opened(folder)


def test_zip_headers_with_extra_fields_are_skipped(tmp_path: Path) -> None:
    """numpy.savez writes zip64 fields into local headers; other writers write none."""
    part = arrays(3)
    path = tmp_path / "plain.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in part.items():
            np.save(tmp_path / f"{name}.npy", array)
            archive.write(tmp_path / f"{name}.npy", f"{name}.npy")
    images, _ = opened(path).take(torch.tensor([2]))
    np.testing.assert_array_equal(images.numpy(), part["image"][2:].transpose(0, 3, 1, 2))
