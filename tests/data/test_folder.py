from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_files import random_images, save_image
from PIL import Image

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.facts import Split

PIXELS = random_images(4, 3, 6, 5, seed=0)


def fill(root: Path) -> None:
    """Two classes of two images a split."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(2):
                save_image(PIXELS[number], root / split / name / f"{number}.png")


def test_one_split_is_enough(tmp_path: Path) -> None:
    save_image(PIXELS[0], tmp_path / "test" / "b" / "1.png")
    save_image(PIXELS[1], tmp_path / "test" / "a" / "1.png")
    dataset = load_dataset(f"folder:{tmp_path}")
    assert (dataset.shape, dataset.classes) == ((3, 6, 5), ("a", "b"))
    np.testing.assert_array_equal(dataset.load("test").images.numpy(), PIXELS[[1, 0]])


def test_a_class_may_have_no_test_folder(tmp_path: Path) -> None:
    fill(tmp_path)
    for file in (tmp_path / "test" / "cat").iterdir():
        file.unlink()
    (tmp_path / "test" / "cat").rmdir()
    assert load_dataset(f"folder:{tmp_path}").load("test").labels.tolist() == [1, 1]


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "train" / "labels.txt").write_text("cat dog")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "._0.png").write_text("")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("")
    assert len(load_dataset(f"folder:{tmp_path}").load("train")) == 4


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        save_image(np.full_like(PIXELS[0], 100), tmp_path / "train" / name / f"x{suffix}")
    loaded = load_dataset(f"folder:{tmp_path}").load("train").images.numpy()
    assert np.abs(loaded.astype(int) - 100).max() <= 2


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("PA", 3), ("RGB", 3), ("RGBA", 3)],
)
def test_modes_become_grey_or_rgb(tmp_path: Path, mode: str, channels: int) -> None:
    original = Image.fromarray(PIXELS[0].transpose(1, 2, 0).copy()).convert("RGBA" if "A" in mode else "RGB")
    image = original.convert("RGB").convert("P").convert("PA") if mode == "PA" else original.convert(mode)
    (tmp_path / "train" / "a").mkdir(parents=True)
    suffix = ".png" if mode != "PA" else ".webp"
    (image.convert("RGBA") if mode == "PA" else image).save(tmp_path / "train" / "a" / f"x{suffix}", lossless=True)
    loaded = load_dataset(f"folder:{tmp_path}").load("train").images[0].numpy()
    expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(6, 5, channels)
    np.testing.assert_array_equal(loaded.transpose(1, 2, 0), expected)


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS[0].transpose(1, 2, 0).copy()).convert("P")
    (tmp_path / "train" / "a").mkdir(parents=True)
    image.save(tmp_path / "train" / "a" / "x.png", transparency=bytes(range(256)))
    loaded = load_dataset(f"folder:{tmp_path}").load("train").images[0].numpy()
    np.testing.assert_array_equal(loaded.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def sixteen_bits(root: Path) -> None:
    Image.fromarray(np.full((6, 5), 1000, dtype=np.uint16)).save(root / "train" / "cat" / "0.png")


def emptied(root: Path) -> None:
    for file in (root / "train" / "dog").iterdir():
        file.rename(file.with_suffix(".tiff"))


def halved(root: Path) -> None:
    path = root / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


BAD: dict[str, tuple[Callable[[Path], object], Split, str]] = {
    "one is larger": (
        lambda root: save_image(random_images(3, 7, 9, seed=1), root / "train" / "dog" / "1.png"),
        "train",
        "{root}/train/cat/0.png is 5x6 RGB but {root}/train/dog/1.png is 9x7 RGB; resize",
    ),
    "one is grey": (
        lambda root: save_image(PIXELS[0][:1], root / "test" / "dog" / "0.png"),
        "test",
        "{root}/train/cat/0.png is 5x6 RGB but {root}/test/dog/0.png is 5x6 grey; resize (--resize, --crop) or convert",
    ),
    "no image": (
        lambda root: (root / "train" / "dog" / "1.png").write_text("<html>"),
        "train",
        "{root}/train/dog/1.png cannot be read as an image (UnidentifiedImageError",
    ),
    "half an image": (halved, "train", "{root}/train/dog/1.png cannot be read as an image ("),
    "16 bits": (
        sixteen_bits,
        "train",
        "{root}/train/cat/0.png cannot be read as an image (ValueError: 8 bits a channel",
    ),
    "empty class": (emptied, "train", "{root}/train/dog holds no images (*.bmp, *.jpeg, *.jpg, *.png, *.webp)"),
    "unknown class": (
        lambda root: (root / "test" / "dog").rename(root / "test" / "cow"),
        "test",
        "{root}: test has classes without a folder in train: cow",
    ),
    "no test": (lambda root: (root / "test").rename(root / "val"), "test", "{root}/test holds no images"),
    "no splits": (
        lambda root: [(root / split).rename(root / f"my {split}") for split in ("train", "test")],
        "train",
        "{root} has neither train/ nor test/ in it; expected {root}/train/CLASS/*.png",
    ),
    "no folder": (lambda root: root.rename(root.with_name("moved")), "train", "{root} is not a folder"),
    "no classes": (
        lambda root: [(root / "train" / name).rename(root / name) for name in ("cat", "dog")],
        "train",
        "{root}/train holds no class folders",
    ),
}


@pytest.mark.parametrize(("spoil", "split", "message"), BAD.values(), ids=BAD)
def test_bad_folders_are_one_line_errors(
    tmp_path: Path, spoil: Callable[[Path], object], split: Split, message: str
) -> None:
    root = tmp_path / "images"
    fill(root)
    spoil(root)
    with pytest.raises(UserError) as caught:
        load_dataset(f"folder:{root}").load(split)
    assert message.format(root=root) in str(caught.value)
    assert "\n" not in str(caught.value)
