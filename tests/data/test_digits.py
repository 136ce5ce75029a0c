from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from robustbench_gkl.data import load_dataset


def test_the_splits_are_the_same_for_ever() -> None:
    digits = load_dataset("digits")
    assert (len(digits.load("train")), len(digits.load("test"))) == (1437, 360)
    assert digits.load("train").sha256 == "5e3b8fceb1a17ed71da50a6e030ccfeb589e5840b270ea4e26f25063f06f2161"
    assert digits.load("test").sha256 == "e3929a727dfaa05f024e3dbaf892403e29323a6fc3d25a60b97278686cb6cdf3"


def test_both_splits_together_are_the_source_spread_over_the_byte() -> None:
    digits = load_dataset("digits")
    source = load_digits()
    expected = np.floor(source.images * 255 / 16 + 0.5).astype(np.uint8)
    label_of = {image.tobytes(): label for image, label in zip(expected, source.target, strict=True)}
    found = {}
    for split in (digits.load("train"), digits.load("test")):
        for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True):
            found[image.tobytes()] = label
    assert found == label_of
    assert len(found) == 1797
    assert expected.max() == 255


def test_the_test_split_has_every_digit_about_equally_often() -> None:
    counts = load_dataset("digits").load("test").labels.bincount(minlength=10)
    assert int(counts.min()) >= 20
