"""The files that decide a data set's images: all there, and any change of one makes another key."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_files import build

from robustbench_gkl.data.facts import SPLITS
from robustbench_gkl.data.source_files import images_key, keep_images_sha256, known_images_sha256, source_files


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "mnist", "npz:PATH", "svhn"])
def test_a_change_of_any_file_is_another_key(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build(name, tmp_path / "data", monkeypatch).name
    for split in SPLITS:
        files = source_files(dataset, split, tmp_path / "data")
        assert files
        before = images_key(dataset, split, None, tmp_path / "data")
        assert before == images_key(dataset, split, None, tmp_path / "data")
        assert before != images_key(dataset, split, 3, tmp_path / "data")
        keys = {before}
        for path in files:
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            keys.add(images_key(dataset, split, None, tmp_path / "data"))
            path.write_bytes(content)
        assert None not in keys
        assert len(keys) == 1 + len(files)
        moved = files[0].rename(tmp_path / "moved")
        assert images_key(dataset, split, None, tmp_path / "data") is None
        moved.rename(files[0])
    splits = {images_key(dataset, split, None, tmp_path / "data") for split in SPLITS}
    assert len(splits) == 2


def test_digits_have_a_key(tmp_path: Path) -> None:
    assert images_key("digits", "test", None, tmp_path) is not None


@pytest.mark.parametrize("dataset", ["folder:somewhere", "of-a-plugin", "npz:", "npz:absent.npz", "cifar10"])
def test_what_is_not_known_has_none(dataset: str, tmp_path: Path) -> None:
    assert images_key(dataset, "test", None, tmp_path) is None


def test_an_old_form_of_mnist_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("mnist", tmp_path, monkeypatch)
    assert images_key("mnist", "test", None, tmp_path) is not None
    (tmp_path / "MNIST/processed").mkdir()
    assert images_key("mnist", "test", None, tmp_path) is None


def test_a_damaged_entry_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert known_images_sha256("key") is None
    keep_images_sha256("key", "abc")
    assert known_images_sha256("key") == "abc"
    (tmp_path / "gklbench/images/key.json").write_text("[]")
    assert known_images_sha256("key") is None
