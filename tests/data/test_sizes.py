"""What is known of a data set before it is loaded is what loading it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import random_images

from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.facts import FACTS, SPLITS
from robustbench_gkl.data.sizes import dataset_classes, dataset_size


def test_the_facts_of_digits_are_those_of_the_loaded_set() -> None:
    dataset = load_dataset("digits")
    for split in SPLITS:
        images = dataset.load(split)
        assert (images.shape, images.classes) == (FACTS["digits"].shape, FACTS["digits"].classes)
        assert len(images) == dataset_size("digits", split)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_each_data_set_takes_shape_and_classes_from_the_facts(name: str) -> None:
    dataset = load_dataset(name)
    assert (dataset.shape, dataset.classes) == (FACTS[name].shape, FACTS[name].classes)
    assert dataset_classes(name) == len(dataset.classes)


def npz(path: Path) -> str:
    images = random_images(7, 4, 5, seed=0)
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    np.savez(path, x_train=images, y_train=labels, x_test=images[:3], y_test=np.array([0, 4, 1]))
    return f"npz:{path}"


def test_the_size_of_an_npz_is_that_of_the_loaded_set(tmp_path: Path) -> None:
    name = npz(tmp_path / "a.npz")
    dataset = load_dataset(name)
    assert {split: dataset_size(name, split) for split in SPLITS} == {"train": 7, "test": 3}
    assert dataset_classes(name) == len(dataset.classes) == 5


def test_a_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    npz(tmp_path / "a.npz")
    assert dataset_size("npz:~/a.npz", "test") == 3
    assert dataset_classes("npz:~/a.npz") == 5


def test_nothing_is_known_of_what_is_absent_or_broken(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for name in (f"npz:{tmp_path}/none.npz", f"npz:{tmp_path}/broken.npz", f"folder:{tmp_path}/none", "unknown"):
        assert dataset_size(name, "test") is None
        assert dataset_classes(name) is None


def test_the_classes_of_a_folder_are_counted(tmp_path: Path) -> None:
    for split, label in (("train", "cat"), ("train", "dog"), ("test", "cat")):
        (tmp_path / split / label).mkdir(parents=True)
    assert dataset_classes(f"folder:{tmp_path}") == dataset_classes(f"imagenet:{tmp_path}") == 2
    assert dataset_size(f"folder:{tmp_path}", "train") is None
