"""The template of a plugin, built and installed as a user would, and used by commands in processes that see it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "examples" / "plugin"
Python = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the template, without a registry."""
    if find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the template, is not installed here")
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(TEMPLATE, folder / "source")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Python:
    """Call Python where the template is installed."""

    def call(*arguments: object) -> str:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{installed}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "error", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


LIST = "from gklbench.cli import run; [run(['list', kind]) for kind in {kinds}]"


def test_what_it_registers_is_listed_beside_the_built_in_ones(python: Python) -> None:
    out = python("-c", LIST.format(kinds=["losses", "attacks", "models", "datasets", "recipes"]))
    listed = {line.split()[0] for line in out.splitlines()}
    assert listed >= {"example-alp", "example-corners", "example-mlp", "example-stripes", "example"}
    assert listed >= {"trades", "pgd", "tiny-cnn", "digits", "digits-trades"}


def test_its_names_train_evaluate_and_are_found_again(python: Python, tmp_path: Path) -> None:
    python("-m", "gklbench", "train", "example", "--epochs", 2, "--name", "mine", "--set", "probe.steps=2")
    config = json.loads((tmp_path / "checkpoints/mine/config.json").read_text())
    assert (config["train"]["loss"], config["arch"]) == ("example-alp", "example-mlp")
    assert config["plugins"] == {}  # what is installed is found by itself
    out = python("-m", "gklbench", "eval", "mine", "--attack", "example-corners", "--attack", "pgd:steps=10")
    assert "after example-corners" in out
    load = "import gklbench; print(type(gklbench.load_model('mine')).__module__)"
    assert python("-c", load).strip() == "gklbench_example.model"
    board = python("-m", "gklbench", "leaderboard", "--json", "board.json")
    (row,) = json.loads((tmp_path / "board.json").read_text())
    assert (row["rank"], row["model"], row["loss"]) == (1, "mine", "example-alp"), board
    # Records are read where the plugin is not installed.
    elsewhere = os.environ | {"PYTHONPATH": str(ROOT)}
    read = [sys.executable, "-m", "gklbench", "leaderboard"]
    done = subprocess.run(read, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "example-corners" in done.stdout


def test_its_own_tests_pass(python: Python, installed: Path) -> None:
    out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", installed.parent / "source")
    assert " passed" in out
