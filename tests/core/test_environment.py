"""The commit in a record is that of our own checkout, and no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import robustbench_gkl

PACKAGE = Path(robustbench_gkl.__file__).parent
SAID = "from robustbench_gkl.core.environment import git_commit; print(git_commit())"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def said(package: Path) -> str:
    """Return what the copy of the package in a folder says of itself."""
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, "-c", SAID]
    done = subprocess.run(command, cwd=package, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of somebody's, with one commit."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    git(tmp_path, "init", "-q")
    (tmp_path / "paper.tex").write_text("theirs")
    git(tmp_path, "add", "paper.tex")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    return tmp_path


@pytest.mark.parametrize("ignored", [True, False])
def test_an_installation_in_somebodys_repository_has_no_commit(ignored: bool, repository: Path) -> None:
    if ignored:
        (repository / ".gitignore").write_text(".venv\n")
    packages = repository / ".venv/lib/python3/site-packages"
    shutil.copytree(PACKAGE, packages / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    assert said(packages) == "None"


def test_a_checkout_has_its_commit(repository: Path) -> None:
    shutil.copytree(PACKAGE, repository / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    git(repository, "add", PACKAGE.name)
    git(repository, "commit", "-q", "-m", "ours")
    commit = git(repository, "rev-parse", "HEAD")
    assert said(repository) == commit
    (repository / "paper.tex").write_text("changed")
    assert said(repository) == f"{commit}-dirty"
