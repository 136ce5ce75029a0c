"""What holds for every data set: a newly registered one is tested here for free.

One that needs files gets a builder in ``dataset_files.BUILDERS``.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_files import Files, build

from robustbench_gkl.core.errors import UserError, one_line
from robustbench_gkl.data import DATASETS, Dataset, ImageSet, load_dataset, to_unit, train_validation_split
from robustbench_gkl.data.facts import SPLITS, Split

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def numbered(count: int) -> ImageSet:
    """Images that are their own number."""
    values = torch.arange(count, dtype=torch.uint8)
    return ImageSet(values.reshape(-1, 1, 1, 1), values.long() % 3, ("a", "b", "c"))


@pytest.fixture(params=DATASETS.names())
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("intact files need no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return build(request.param, tmp_path / "files", monkeypatch)


@pytest.fixture
def dataset(files: Files, tmp_path: Path) -> Dataset:
    return load_dataset(files.name, data_dir=tmp_path / "files")


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_a_contiguous_image_set(dataset: Dataset, split: Split) -> None:
    images = dataset.load(split)
    count, (channels, height, width) = len(images), dataset.shape
    assert count > 0
    assert images.images.shape == (count, channels, height, width)
    assert images.images.dtype == torch.uint8
    assert images.images.stride() == (channels * height * width, height * width, width, 1)
    assert images.labels.dtype == torch.int64
    assert images.shape == dataset.shape
    assert images.classes == dataset.classes
    assert len(set(dataset.classes)) == len(dataset.classes) >= 2


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_and_labels_are_those_in_the_files(files: Files, dataset: Dataset, split: Split) -> None:
    if split not in files.images:
        pytest.skip("reads no files")
    images = dataset.load(split)
    np.testing.assert_array_equal(images.images.numpy(), files.images[split])
    np.testing.assert_array_equal(images.labels.numpy(), files.labels[split])


def test_loading_is_repeatable_and_silent(
    files: Files, dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = load_dataset(files.name, data_dir=tmp_path / "files")
    hashes = {split: dataset.load(split).sha256 for split in SPLITS}
    assert hashes == {split: again.load(split).sha256 for split in SPLITS}
    assert hashes["train"] != hashes["test"]
    assert capfd.readouterr() == ("", "")


def test_no_image_is_in_both_splits(dataset: Dataset) -> None:
    train, test = ({image.numpy().tobytes() for image in dataset.load(split).images} for split in SPLITS)
    assert not train & test


@pytest.mark.parametrize("entry", DATASETS.entries(), ids=lambda entry: entry.name)
def test_each_data_set_is_summarised_in_one_line(entry: Any) -> None:
    assert 10 < len(entry.summary) <= 100


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1, 8, 8), 10),
        ("mnist", (1, 28, 28), 10),
        ("fashion-mnist", (1, 28, 28), 10),
        ("svhn", (3, 32, 32), 10),
        ("cifar10", (3, 32, 32), 10),
        ("cifar100", (3, 32, 32), 100),
    ],
)
def test_published_facts_need_no_files(name: str, shape: tuple[int, ...], classes: int, tmp_path: Path) -> None:
    dataset = load_dataset(name, data_dir=tmp_path / "absent")
    assert dataset.shape == shape
    assert len(set(dataset.classes)) == classes
    assert not (tmp_path / "absent").exists()


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(UserError, match=r"unknown dataset 'cifar'; did you mean 'cifar10.*folder:PATH, .*npz:PATH"):
        load_dataset("cifar")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("npz:PATH", tmp_path, monkeypatch)
    build("mnist", tmp_path / "published", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_dataset("npz:~/some images.npz").shape == (3, 6, 5)
    assert len(load_dataset("mnist", data_dir=Path("~/published")).load("test")) == 4


def test_importing_the_registry_imports_no_image_library() -> None:
    script = (
        "import sys; from robustbench_gkl.data import DATASETS; DATASETS.names(); "
        "sys.exit(str([name for name in ('torchvision', 'sklearn', 'scipy', 'PIL') if name in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64), "must be uint8"),
        (torch.full((2, 1, 4, 4), 2.0), torch.zeros(2, dtype=torch.int64), r"must lie in \[0, 1\]"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "must be uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "as many int64 labels"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32), "as many int64 labels"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "no images"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]), r"0\.\.1, got 0\.\.2"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([-1, 1]), r"0\.\.1, got -1\.\.1"),
    ],
)
def test_an_image_set_refuses_what_is_none(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageSet(images, labels, ("a", "b"))


def test_the_hash_sees_pixels_labels_shape_and_order() -> None:
    images = numbered(8)
    pixels, labels = images.images, images.labels
    variants = [
        images,
        ImageSet(pixels.flip(0), labels, images.classes),
        ImageSet(pixels, labels.flip(0), images.classes),
        ImageSet(pixels.reshape(4, 2, 1, 1), labels[:4], images.classes),
        ImageSet(pixels.reshape(4, 1, 2, 1), labels[:4], images.classes),
    ]
    assert len({variant.sha256 for variant in variants}) == len(variants)
    assert images.take(torch.arange(8)).sha256 == images.sha256
    strided = ImageSet(torch.stack([pixels, pixels])[0].expand(8, 1, 1, 1), labels, images.classes)
    assert strided.sha256 == images.sha256


def test_to_unit() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(to_unit(pixels), torch.tensor([0.0, 0.2, 1.0]), rtol=0, atol=1e-7)
    half = torch.tensor([0.25, 0.5], dtype=torch.float64)
    assert torch.equal(to_unit(half), torch.tensor([0.25, 0.5]))


@pytest.mark.parametrize(("count", "fraction", "held"), [(100, 0.1, 10), (100, 0.001, 1), (2, 0.5, 1), (10, 0.999, 9)])
def test_the_validation_part_is_fixed_and_disjoint(count: int, fraction: float, held: int) -> None:
    train, validation = train_validation_split(count, fraction)
    parts = [set(part.tolist()) for part in (train, validation)]
    assert len(validation) == held
    assert parts[0] | parts[1] == set(range(count))
    assert not parts[0] & parts[1]
    assert torch.equal(train_validation_split(count, fraction)[1], validation)


def test_a_fraction_of_zero_holds_nothing_out() -> None:
    train, validation = train_validation_split(5, 0)
    assert (train.tolist(), validation.tolist()) == ([0, 1, 2, 3, 4], [])


def test_a_part_has_the_hash_of_a_set_of_its_own() -> None:
    images, rows = numbered(100), torch.tensor([3, 5, 98])
    digest = hashlib.sha256(b"(3, " + repr(images.shape).encode()[1:])
    digest.update(images.images[rows].numpy().tobytes() + images.labels[rows].numpy().tobytes())
    assert images.sha256_of(rows) == images.take(rows).sha256 == digest.hexdigest()


@pytest.mark.parametrize(("count", "fraction"), [(5, -0.1), (5, 1.0), (5, float("nan")), (1, 0.5)])
def test_an_impossible_split_is_refused(count: int, fraction: float) -> None:
    with pytest.raises(UserError, match="fraction"):
        train_validation_split(count, fraction)


def test_foreign_errors_fit_on_one_line() -> None:
    assert one_line(OSError("a\n  b")) == "OSError: a b"
    assert len(one_line(OSError("x" * 1000))) == 200


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real image files")
@pytest.mark.parametrize(
    ("file", "shape", "train", "test", "first"),
    [
        ("cifar10-jpeg-12k.npz", (3, 32, 32), 10_000, 2_000, "airplane"),
        ("mnist-10k.npz", (1, 28, 28), 8_000, 2_000, "0"),
    ],
)
def test_real_files(file: str, shape: tuple[int, ...], train: int, test: int, first: str) -> None:
    dataset = load_dataset(f"npz:{SHARED / file}")
    assert (dataset.shape, dataset.classes[0], len(dataset.classes)) == (shape, first, 10)
    assert (len(dataset.load("train")), len(dataset.load("test"))) == (train, test)
    images = dataset.load("test")
    with np.load(SHARED / file) as arrays:
        original = torch.from_numpy(arrays["x_test"]).reshape(test, *shape[1:], shape[0])
        assert torch.equal(images.images.permute(0, 2, 3, 1), original)
        assert images.labels.tolist() == arrays["y_test"].tolist()
