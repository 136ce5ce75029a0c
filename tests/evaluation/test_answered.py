"""A record that is there is found without torch, and only by whoever asks the very same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails from here on
from robustbench_gkl.cli import run
sys.exit(run(sys.argv[1:]))
"""
ASKED = ["eval", "tiny", "--dataset", "npz:few.npz", "--attack", "pgd:steps=2", "--eps", "0.1"]


def write_images(path: Path, *, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pixels, labels = generator.integers(0, 256, (20, 8, 8), dtype=np.uint8), np.arange(20) % 10
    np.savez(path, x_test=pixels, y_test=labels)


@pytest.fixture
def evaluated(here: Path, trained: Path, gklbench: CommandLine) -> Path:
    """A folder with a run, twenty images and the record of an evaluation."""
    shutil.copytree(trained, here / "checkpoints")
    write_images(here / "few.npz", seed=0)
    assert gklbench(*ASKED).code == 0
    assert len(list((here / "results/records").glob("*.json"))) == 1
    return here


def ask(folder: Path, *more: object, asked: list[str] = ASKED) -> subprocess.CompletedProcess[str]:
    """Return how the command ends without torch: 0 if the record is found, else by the import that fails."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *asked, *map(str, more)]
    return subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)


def needs_torch(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 1 and "import of torch halted" in done.stderr


def test_it_is_found_without_torch(evaluated: Path, gklbench: CommandLine) -> None:
    done = ask(evaluated)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("already evaluated on ")
    with_torch = gklbench(*ASKED)  # this process has imported torch
    assert with_torch.out.partition("already")[2] == done.stdout.partition("already")[2]


def test_it_is_found_by_content(evaluated: Path) -> None:
    shutil.copy(evaluated / "few.npz", evaluated / "same.npz")
    assert ask(evaluated, "--dataset", "npz:same.npz").returncode == 0


def test_it_is_judged_without_torch(evaluated: Path) -> None:
    done = ask(evaluated, "--fail-under", 100)
    assert done.returncode == 1
    assert "below --fail-under 100" in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        ["--overwrite"],
        ["--n", 19],
        ["--eps", "0.2"],
        ["--norm", "l2"],
        ["--seed", 1],
        ["--attack", "pgd:steps=3"],
        ["--name", "other"],
        ["--weights", "last"],
        ["--search-precision", "bf16"],
        ["--compile"],
        ["--shard", "1/2"],
        ["--save-adversarial", 1],
        ["--device", "cuda"],
    ],
    ids=lambda more: " ".join(map(str, more)),
)
def test_another_question_is_not_answered(more: list[object], evaluated: Path) -> None:
    if more[0] == "--weights":
        path = evaluated / "checkpoints/tiny/last.safetensors"
        with safe_open(path, framework="numpy") as file:
            header = {key: value for key, value in (file.metadata() or {}).items() if key != "weights_sha256"}
        save_file({key: value + 1 for key, value in load_file(path).items()}, path, metadata=header)
    assert needs_torch(ask(evaluated, *more))


def test_changed_images_are_not_answered(evaluated: Path) -> None:
    before = (evaluated / "few.npz").stat()
    write_images(evaluated / "few.npz", seed=1)
    os.utime(evaluated / "few.npz", ns=(before.st_atime_ns, before.st_mtime_ns))  # as old and as large as before
    assert (evaluated / "few.npz").stat().st_size == before.st_size
    assert needs_torch(ask(evaluated))


def test_changed_weights_are_not_answered(evaluated: Path) -> None:
    for path in (evaluated / "checkpoints/tiny").glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            header = file.metadata()
        save_file({key: value + 1 for key, value in load_file(path).items()}, path, metadata=header)
    assert needs_torch(ask(evaluated))  # the header still names the hash of the record


def test_another_architecture_is_not_answered(evaluated: Path) -> None:
    path = evaluated / "checkpoints/tiny/config.json"
    path.write_text(path.read_text().replace('"arch": "tiny-cnn"', '"arch": "small-cnn"'))
    assert needs_torch(ask(evaluated))


def test_a_broken_record_is_not_an_answer(evaluated: Path) -> None:
    (record,) = (evaluated / "results/records").glob("*.json")
    record.write_text(record.read_text().replace('"partial": false', '"partial": true'))
    assert needs_torch(ask(evaluated))


READERS = {"a reader of its own": "return Darker(Path(path))", "ours": "return NpzFile(Path('other.npz'))"}


@pytest.mark.parametrize("reader", READERS)
def test_images_of_a_plugin_are_not_known(reader: str, evaluated: Path) -> None:
    """Where a plugin may read the images in its own way, nothing is said from their files."""
    shutil.rmtree(evaluated / "results")
    write_images(evaluated / "other.npz", seed=1)
    plugin = evaluated / "noise.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from robustbench_gkl.data.base import DATASETS\n"
        "from robustbench_gkl.data.npz import NpzFile\n"
        "from pathlib import Path\n"
        "class Darker(NpzFile):\n"
        "    def load(self, split):\n"
        "        found = super().load(split)\n"
        "        return type(found)(found.images // 2, found.labels, found.classes)\n"
        "@DATASETS.register('darker', pattern=r'npz:(?P<path>.+)')\n"
        "def darker(*, path, data_dir):\n"
        f"    {READERS[reader]}\n"
    )
    command = [sys.executable, "-m", "robustbench_gkl", *ASKED, "--plugin", "noise.py"]
    cache = {"XDG_CACHE_HOME": str(evaluated / "cache")}
    subprocess.run(command, cwd=evaluated, env=os.environ | cache, capture_output=True, check=True)
    command = [sys.executable, "-c", WITHOUT_TORCH, *ASKED]
    done = subprocess.run(command, cwd=evaluated, env=os.environ | cache, capture_output=True, text=True, check=False)
    assert needs_torch(done)
