"""The hash of a data set's images, known from the files that they were read from before. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

from robustbench_gkl.core.files import file_sha256, write_atomically
from robustbench_gkl.core.hashing import cache_folder, cached_sha256
from robustbench_gkl.core.version import __version__
from robustbench_gkl.data.facts import Split

_MNIST = {"train": "train", "test": "t10k"}
_CIFAR = {
    "cifar10": ("cifar-10-batches-py", {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}),
    "cifar100": ("cifar-100-python", {"train": ["train"], "test": ["test"]}),
}


def source_files(dataset: str, split: Split, data_dir: Path) -> list[Path] | None:
    """Return the files that decide the images of a split; None for a data set of which that is not known."""
    kind, _, path = dataset.partition(":")
    if kind == "npz" and path:
        return [Path(path).expanduser()]
    if dataset == "digits":
        return _digits()
    data_dir = data_dir.expanduser()
    if dataset in _CIFAR:
        batches, names = _CIFAR[dataset]
        return [data_dir / batches / name for name in names[split]]
    if dataset == "svhn":
        return [data_dir / f"{split}_32x32.mat"]
    if dataset in ("mnist", "fashion-mnist"):
        folder = data_dir / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[dataset]
        if (folder / "processed").exists():  # torchvision reads an old form of the set from there
            return None
        return [folder / "raw" / f"{_MNIST[split]}-{what}-ubyte" for what in ("images-idx3", "labels-idx1")]
    return None


def _digits() -> list[Path] | None:
    """Return the file of scikit-learn's digits and the code that reads it; the package is not imported."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / "datasets"
    return [folder / "data" / "digits.csv.gz", folder / "_base.py"]


def images_key(dataset: str, split: Split, n: int | None, data_dir: Path) -> str | None:
    """Return the hash of all that decides the first ``n`` images of a split: its files, by content, and our code.

    None for a data set whose files are not known or not there.

    Args:
        dataset: a registered name of ours.
        split: the split.
        n: how many images; None for all.
        data_dir: where downloaded data sets are kept.
    """
    files = source_files(dataset, split, data_dir)
    if files is None:
        return None
    code = [*sorted(Path(__file__).parent.glob("*.py")), Path(__file__).parents[1] / "core" / "noise.py"]
    try:
        contents = [cached_sha256(path) for path in files]
        readers = [file_sha256(path) for path in code]
    except OSError:
        return None
    text = json.dumps([__version__, dataset.partition(":")[0], split, n, contents, readers])
    return hashlib.sha256(text.encode()).hexdigest()


def known_images_sha256(key: str) -> str | None:
    """Return the hash of the images that :func:`keep_images_sha256` kept under a key; None if it kept none."""
    try:
        return str(json.loads(_kept(key).read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_images_sha256(key: str, sha256: str) -> None:
    """Keep the hash of the images of a key for the next command; where nothing can be written, nothing is kept."""
    if known_images_sha256(key) == sha256:
        return
    try:
        _kept(key).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_kept(key), json.dumps({"sha256": sha256}) + "\n")
    except OSError:
        pass


def _kept(key: str) -> Path:
    return cache_folder() / "images" / f"{key}.json"
