"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import TINY, CommandLine, Result

from robustbench_gkl.cli import run
from robustbench_gkl.results import ResultStore

SHARED = Path(__file__).parents[2] / "shared"
"""Reference data that a checkout may have beside it; tests that need it are skipped where it is absent."""

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore Ctrl-C, children too
torch.set_num_threads(1)  # the nets are tiny, and threads that wait for each other cost minutes on a busy machine


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data."""
    if not SHARED.is_dir():
        pytest.skip("the folder of reference data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test read or write the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def gklbench(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Call the command line in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with the run ``tiny``: tiny-cnn on digits."""
    folder = tmp_path_factory.mktemp("trained") / "checkpoints"
    arguments = ["train", "digits-trades", "--name", "tiny", "--checkpoints-dir", folder, "--quiet", *TINY]
    assert run([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, from which processes and jobs find the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """An empty results folder."""
    return ResultStore(tmp_path / "results")
