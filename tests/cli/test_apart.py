"""An evaluation whose drivers have processes: the record of one driver, and nothing left or half done after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, process

from robustbench_gkl.results import ResultStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no processes are forked elsewhere")

EVAL: tuple[object, ...] = ("eval", "tiny", "--n", 300, "--eps", "1/255", "--device", "cpu", "--save-adversarial", 5)
EVAL += ("--attack", "apgd-t:steps=30,targets=3", "--attack", "square:queries=1500")


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained run in it, which is the current one."""
    shutil.copytree(trained, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def children(of: subprocess.Popen[str]) -> list[int]:
    """Return the numbers of the processes that a process has made."""
    try:
        return [int(pid) for pid in Path(f"/proc/{of.pid}/task/{of.pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def interrupted(interrupt: Callable[[int, list[int]], None]) -> tuple[int, str, list[int]]:
    """Evaluate in two processes, and interrupt it once the journal has a restart that is over.

    ``interrupt`` gets the number of the evaluation's process and those of its children. Returns the exit code, what was
    said, and the children.
    """
    evaluation = process(*EVAL, cwd=Path.cwd(), threads=2)
    while evaluation.poll() is None:
        pids = children(evaluation)
        if len(pids) == 2 and any('"done":[[' in path.read_text() for path in Path("results").rglob("*.jsonl")):
            interrupt(evaluation.pid, pids)
            _, err = evaluation.communicate(timeout=300)
            return evaluation.returncode, err, pids
        time.sleep(0.01)
    raise AssertionError(evaluation.communicate())


def kept(folder: str) -> dict[str, Any]:
    """Return what must not depend on who did what: verdicts, what fell when, calls, checks, adversarial images."""
    (record,) = ResultStore(Path(folder)).records()
    (path,) = Path(folder, "records").glob("*.json")
    told = json.loads(path.read_text())
    verdicts = ResultStore(Path(folder)).verdicts(record)
    calls = []
    for stage in (stage for attack in record.attacks for stage in attack.stages):
        forwards = (
            None if stage.name.startswith("square") else stage.forwards
        )  # it looks as far ahead as pays at the moment
        calls.append(
            (stage.name, stage.attacked, stage.broken, forwards, stage.candidates, stage.rejected, stage.nonfinite)
        )
    checks = [(check["name"], check["verdict"], check["figure"]) for check in told["checks"]]
    images = [path.read_bytes() for path in Path(folder, "adversarial").glob("*.npz")]
    return {"verdicts": verdicts.to_csv(), "calls": calls, "checks": checks, "images": images}


def alive(pids: list[int]) -> bool:
    """Return whether any of the processes is still there after half a minute."""
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_the_record_is_that_of_one_driver_and_kills_change_nothing(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*EVAL, "--results-dir", "alone").code == 0

    code, err, pids = interrupted(lambda own, children: os.kill(children[0], signal.SIGKILL))
    assert (code, err.count("\n")) == (1, 1)
    assert "Error: a process of the search was killed by signal 9" in err
    assert not alive(pids)
    for number, expected in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        code, err, pids = interrupted(lambda own, children, number=number: os.kill(own, number))  # type: ignore[misc]
        assert code == expected, err
        assert not alive(pids)

    for folder in ("results", "whole"):
        last = process(*EVAL, "--results-dir", folder, cwd=workplace, threads=2)
        assert last.communicate(timeout=300)[1] == ""
        assert last.returncode == 0
    assert kept("whole") == kept("alone")
    killed, whole = kept("results"), kept("whole")  # the calls of what a kill has lost may count
    assert (killed["verdicts"], killed["images"]) == (whole["verdicts"], whole["images"])
