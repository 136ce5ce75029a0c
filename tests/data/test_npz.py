from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import random_images

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.facts import Split

Array = np.ndarray[Any, np.dtype[Any]]

GREY = random_images(6, 4, 5, seed=0)
COLOUR = random_images(6, 4, 5, 3, seed=0)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def arrays(**changes: Array | None) -> dict[str, Array]:
    """A sound file's arrays, with some replaced or, for None, left out."""
    sound: dict[str, Array | None] = {"x_train": COLOUR, "y_train": LABELS, "x_test": COLOUR[:3], "y_test": LABELS[:3]}
    return {name: array for name, array in {**sound, **changes}.items() if array is not None}


def save(path: Path, content: dict[str, Any]) -> Path:
    np.savez(path, **content)
    return path


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 1), (6, 4, 5, 2), (6, 4, 5, 4)])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", ">i4", "uint64"])
def test_layouts_and_label_types(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    images = random_images(*shape, seed=4)
    path = save(tmp_path / "a.npz", {"x_test": images, "y_test": LABELS.astype(kind)})
    loaded = load_dataset(f"npz:{path}").load("test")
    expected = images.reshape(6, 4, 5, -1).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(loaded.images.numpy(), expected)
    assert loaded.labels.tolist() == LABELS.tolist()
    assert loaded.classes == ("0", "1", "2")


def test_fortran_order(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", arrays(x_test=np.asfortranarray(COLOUR[:3])))
    np.testing.assert_array_equal(load_dataset(f"npz:{path}").load("test").images[:, 1], COLOUR[:3, :, :, 1])


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_split_is_enough(tmp_path: Path, split: Split) -> None:
    path = save(tmp_path / "a.npz", {f"x_{split}": GREY, f"y_{split}": LABELS})
    dataset = load_dataset(f"npz:{path}")
    assert dataset.shape == (1, 4, 5)
    assert len(dataset.load(split)) == 6


def test_classes_cover_the_labels_of_both_splits(tmp_path: Path) -> None:
    dataset = load_dataset(f"npz:{save(tmp_path / 'a.npz', arrays(y_test=np.array([5, 0, 1])))}")
    assert dataset.classes == tuple("012345")
    assert dataset.load("train").classes == dataset.classes


@pytest.mark.parametrize("encoded", [False, True])
def test_class_names(tmp_path: Path, encoded: bool) -> None:
    names: Array = np.array(["ä", "bee", "cow"])
    names = np.char.encode(names, "utf-8") if encoded else names
    dataset = load_dataset(f"npz:{save(tmp_path / 'a.npz', arrays(classes=names))}")
    assert dataset.load("test").classes == ("ä", "bee", "cow")


def test_the_shape_is_read_from_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(f"npz:{save(tmp_path / 'a.npz', arrays())}")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the arrays need not be read")

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    assert dataset.shape == (3, 4, 5)


BAD: dict[str, tuple[dict[str, Array], Split, str]] = {
    "no train images": (arrays(x_train=None), "train", "lacks the array x_train (it holds x_test, y_test, y_train)"),
    "no test labels": (arrays(y_test=None), "test", "lacks the array y_test"),
    "no arrays": ({}, "test", "lacks the array x_test (it holds nothing)"),
    "other arrays": ({"images": GREY}, "train", "lacks the array x_train (it holds images)"),
    "float images": (arrays(x_train=COLOUR / 255), "train", "x_train must be uint8 in 0..255, got float64; images in"),
    "NaN images": (arrays(x_test=COLOUR[:3] * np.float32(np.nan)), "test", "got float32 with NaN; images in"),
    "int16 images": (arrays(x_train=COLOUR.astype(np.int16)), "train", "must be uint8 in 0..255, got int16"),
    "string images": (arrays(x_train=np.array(["a"])), "train", "must be uint8 in 0..255, got <U1"),
    "flat images": (
        arrays(x_train=COLOUR.reshape(6, -1)),
        "train",
        "(N, H, W, C) with at most 4 channels, got (6, 60)",
    ),
    "channels first": (arrays(x_train=COLOUR.transpose(0, 3, 2, 1)[..., [0] * 9]), "train", "move the channels last"),
    "no width": (arrays(x_train=COLOUR[:, :, :0]), "train", "got (6, 4, 0, 3)"),
    "empty": (arrays(x_train=COLOUR[:0], y_train=LABELS[:0]), "train", "x_train holds no images"),
    "no labels": (arrays(y_train=LABELS[:0]), "train", "y_train holds no labels"),
    "two shapes": (
        arrays(x_test=GREY[:3]),
        "train",
        "x_train (6, 4, 5, 3) and x_test (3, 4, 5) must hold images of one",
    ),
    "lengths differ": (arrays(y_train=LABELS[:5]), "train", "x_train holds 6 images but y_train 5 labels"),
    "float labels": (arrays(y_train=LABELS.astype(float)), "train", "y_train must hold integers, got float64"),
    "bool labels": (arrays(y_train=LABELS > 1), "train", "y_train must hold integers, got bool"),
    "column labels": (arrays(y_train=LABELS[:, None]), "train", "y_train must have the shape (N,), got (6, 1)"),
    "negative labels": (arrays(y_train=LABELS - 1), "train", "y_train must hold class numbers in 0..99999, got -1..1"),
    "huge labels": (arrays(y_test=LABELS[:3].astype(np.uint64) << np.uint64(63)), "test", "got 0..9223372036854775808"),
    "beyond classes": (arrays(classes=np.array(["a", "b"])), "train", "y_train must lie in 0..1 (2 classes), got 2"),
    "numeric classes": (arrays(classes=np.arange(3)), "train", "classes must be strings (K,), got int64 (3,)"),
    "one class string": (arrays(classes=np.array("abc")), "train", "classes must be strings (K,), got <U3 ()"),
}


@pytest.mark.parametrize(("content", "split", "message"), BAD.values(), ids=BAD)
def test_bad_arrays_are_one_line_errors(tmp_path: Path, content: dict[str, Array], split: Split, message: str) -> None:
    path = save(tmp_path / "bad.npz", content)
    with pytest.raises(UserError) as caught:
        load_dataset(f"npz:{path}").load(split)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x_train", "y_train", "classes"])
def test_nothing_is_unpickled(tmp_path: Path, name: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "exploded").touch, ()

    objects = np.empty(6, dtype=object)
    objects[:] = [Bomb() for _ in range(6)]
    path = save(tmp_path / "a.npz", arrays(**{name: objects}))
    with pytest.raises(UserError, match=name):
        load_dataset(f"npz:{path}").load("train")
    assert not (tmp_path / "exploded").exists()


def single(path: Path) -> None:
    np.save(path.with_suffix(".npy"), GREY)
    path.with_suffix(".npy").rename(path)


def damaged(path: Path) -> None:
    """Flip a byte in the pixels of the first array."""
    content = bytearray(save(path, arrays()).read_bytes())
    content[content.index(COLOUR.tobytes()[:20])] ^= 0xFF
    path.write_bytes(content)


FILES = {
    "missing": (lambda path: None, "does not exist; expected an .npz file with x_train"),
    "a folder": (lambda path: path.mkdir(), "is a folder; expected an .npz file"),
    "text": (lambda path: path.write_text("<html>"), "is not a readable .npz file (BadZipFile"),
    "empty": (lambda path: path.write_bytes(b""), "is not a readable .npz file (BadZipFile"),
    "a single array": (single, "is not a readable .npz file (BadZipFile"),
    "damaged": (damaged, "is not a readable .npz file (BadZipFile: Bad CRC-32 for file 'x_train.npy'"),
    "cut": (
        lambda path: path.write_bytes(save(path, arrays()).read_bytes()[:300]),
        "is not a readable .npz file (BadZipFile",
    ),
}


@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES)
def test_bad_files_are_one_line_errors(tmp_path: Path, write: Any, message: str) -> None:
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(UserError) as caught:
        load_dataset(f"npz:{path}").load("train")
    assert f"{path} {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
