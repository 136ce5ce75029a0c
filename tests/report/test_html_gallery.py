"""The gallery, read back by Pillow."""

from __future__ import annotations

import io
from base64 import b64decode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robustbench_gkl.report.gallery import MOST_EXHIBITS, gallery, read_gallery

RNG = np.random.default_rng(0)


def pixels(uri: str) -> np.ndarray:
    """Return the picture in a data URI, (H, W) or (H, W, C) uint8."""
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(b64decode(content))) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pictures_are_the_images(channels: int, dtype: type) -> None:
    levels = RNG.integers(0, 256, (2, channels, 5, 4), dtype=np.uint8)
    images = levels if dtype is np.uint8 else (levels / 255).astype(np.float32)
    shown = gallery(images, images[::-1], np.array([1, 2]), np.array([3, 4]), index=np.array([70, 80]))
    expected = levels.transpose(0, 2, 3, 1).squeeze()
    for i, item in enumerate(shown):
        np.testing.assert_array_equal(pixels(item.original), expected[i])
        np.testing.assert_array_equal(pixels(item.adversarial), expected[1 - i])
    assert [(item.index, item.label, item.prediction) for item in shown] == [(70, 1, 3), (80, 2, 4)]


def test_the_difference_is_magnified_to_just_fill_the_range() -> None:
    original = np.full((1, 1, 1, 4), 128, np.uint8)
    delta = np.array([0, 0.01, -0.02, 0.005], np.float32)
    (item,) = gallery(original, (original / 255 + delta).astype(np.float32), np.array([0]), np.array([1]))
    assert item.magnification == pytest.approx(25, rel=1e-5)
    assert item.linf == pytest.approx(0.02, rel=1e-5)
    assert item.l2 == pytest.approx(np.sqrt(np.square(delta).sum()), rel=1e-5)
    np.testing.assert_allclose(pixels(item.difference)[0], 255 * (0.5 + 25 * delta), atol=1)


def test_no_difference_is_mid_grey() -> None:
    image = RNG.random((1, 3, 2, 2))
    (item,) = gallery(image, image, np.array([0]), np.array([0]))
    assert (item.magnification, item.linf, item.l2) == (0, 0, 0)
    assert set(pixels(item.difference).flat) == {128}


@pytest.mark.parametrize(
    ("originals", "adversarials", "says"),
    [
        (np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 4)), "1 or 3 channels"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), "1 or 3 channels"),
        (np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 4, 5)), "all of one size"),
        (np.zeros((2, 1, 4, 4)), np.zeros((2, 1, 4, 4)), "all of one size"),
        (np.zeros((1, 1, 4, 4)), np.full((1, 1, 4, 4), 1.5), r"\[0, 1\]"),
        (np.zeros((1, 1, 4, 4)), np.full((1, 1, 4, 4), np.nan), r"\[0, 1\]"),
    ],
    ids=["channels", "dimensions", "sizes", "labels", "range", "nan"],
)
def test_what_cannot_be_shown(originals: np.ndarray, adversarials: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gallery(originals, adversarials, np.zeros(1, int), np.zeros(1, int))


VERDICTS = pd.DataFrame(
    {
        "index": range(40),
        "label": [i % 10 for i in range(40)],
        "broken_by": pd.array(["clean", None, *["pgd-20"] * 38], dtype="string"),
        "adv_pred": pd.array([5, None, *[7] * 38], dtype="Int64"),
    }
)


def test_saved_images_are_shown_where_an_attack_broke_them(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    index = np.arange(30)[::-1]
    original = RNG.integers(0, 256, (30, 1, 3, 3), dtype=np.uint8)
    np.savez(path, index=index, images=(original / 255).astype(np.float32), original=original)
    shown = read_gallery(path, VERDICTS)
    assert isinstance(shown, list)
    assert [item.index for item in shown] == index[:MOST_EXHIBITS].tolist()
    assert [(item.label, item.prediction) for item in shown] == [(i % 10, 7) for i in index[:MOST_EXHIBITS].tolist()]
    np.testing.assert_array_equal(pixels(shown[0].original), original[0, 0])
    np.savez(path, index=index[-2:], images=(original[-2:] / 255).astype(np.float32), original=original[-2:])
    assert read_gallery(path, VERDICTS) == "No attack broke any of the samples whose images were saved."


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x04."], ids=["empty", "cut", "pickle"])
def test_a_broken_file_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    found = read_gallery(path, VERDICTS)
    assert isinstance(found, str)
    assert "--save-adversarial 16" in found
    np.savez(path, index=np.array([99]), images=np.zeros((1, 1, 2, 2)), original=np.zeros((1, 1, 2, 2), np.uint8))
    assert isinstance(read_gallery(path, VERDICTS), str)
