"""Suites on this machine: real workers."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine, process
from sklearn.datasets import load_digits
from suite_files import EVAL, QUICK, finished_run, suite_of, write
from synthetic_records import make_record, outcome

from robustbench_gkl.results import ResultStore
from robustbench_gkl.suite.local import only_one, worker_environments


def save_digits(path: Path) -> None:
    digits = load_digits()
    images = (digits.images * 15.9375).astype(np.uint8)
    np.savez(
        path, x_train=images[:256], y_train=digits.target[:256], x_test=images[256:300], y_test=digits.target[256:300]
    )


def test_failures_stop_no_others_and_are_retried(gklbench: CommandLine, here: Path) -> None:
    runs = 'dataset = ["npz:later.npz", "digits"]\nname = "on-{dataset}"\n'
    suite = write(here, f"[train]\n{QUICK}{runs}{EVAL}")
    first = gklbench("suite", suite, "--csv", "board.csv")
    assert first.code == 1
    assert "FAIL  train on-npz-later" in first.out
    assert "later.npz" in first.out.partition("FAIL")[2].partition("[")[0], "the reason is shown"
    assert "Error: 1 cells failed and 1 wait for them" in first.err
    with Path("board.csv").open(newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["on-digits"]

    again = gklbench("suite", suite)
    assert again.code == 1
    assert "begin" not in again.out
    assert "failed before (--retry runs it again): train on-npz-later, exit code 2: Error: " in again.out

    save_digits(here / "later.npz")
    retried = gklbench("suite", suite, "--retry")
    assert retried.code == 0, retried.err
    assert [line.split()[-1] for line in retried.out.splitlines() if "begin train" in line] == ["on-npz-later"]
    assert retried.out.count("begin") == 2
    assert "on-npz-later" in retried.out.splitlines()[-1] + retried.out.splitlines()[-2]
    assert not gklbench("suite", suite, "--quiet").out


def test_an_interrupted_suite_goes_on(gklbench: CommandLine, here: Path) -> None:
    suite = write(here, f'[train]\n{QUICK}name = "long"\n'.replace("epochs = 1", "epochs = 80"))
    running = process("suite", suite, cwd=here)
    metrics = here / "checkpoints" / "long" / "metrics.csv"
    while not metrics.exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, out + err
    assert "interrupted; the same command goes on from here" in err
    reached = len(metrics.read_text().splitlines()) - 1
    assert 0 < reached < 80
    assert f"goes on after epoch {reached} of 80" in gklbench("suite", suite, "--dry-run").out

    result = gklbench("suite", suite)
    assert result.code == 0, result.err
    assert len(metrics.read_text().splitlines()) == 81
    (log,) = (here / "results" / "suites" / "suite" / "logs").iterdir()
    first_epoch = next(line for line in log.read_text().splitlines() if line.startswith("epoch"))
    assert first_epoch.split()[1] in (f"{reached + 1}/80", f"{reached + 2}/80")


def test_a_suite_does_not_run_twice_at_once(gklbench: CommandLine, here: Path) -> None:
    suite = write(here, f"[train]\n{QUICK}")
    folder = here / "results" / "suites" / "suite"
    folder.mkdir(parents=True)
    with only_one(folder):
        result = gklbench("suite", suite)
    assert result.code == 2
    assert "running already" in result.err


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, {}, [("3", None), ("5", None)]),
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, {"jobs": 3}, [("3", None), ("5", None), ("3", None)]),
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, {"device": "cuda:1"}, [(None, None)]),
        ({"CUDA_VISIBLE_DEVICES": "3,5", "OMP_NUM_THREADS": "7"}, {"device": "cpu", "jobs": 2}, [(None, "7")] * 2),
        ({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}, {"cells": 1}, [(None, "1")]),
    ],
)
def test_workers_share_devices_and_cores(
    environment: dict[str, str],
    options: dict[str, object],
    expected: list[tuple[str | None, str | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    workers = worker_environments(**{"jobs": None, "device": "auto", "cells": 9} | options)  # type: ignore[arg-type]
    assert [worker.get("CUDA_VISIBLE_DEVICES") for worker in workers] == [gpu for gpu, _ in expected]
    for worker, (_, threads) in zip(workers, expected, strict=True):
        least = max(1, len(os.sched_getaffinity(0)) // len(workers))
        assert worker["OMP_NUM_THREADS"] == (threads or str(least))


def test_the_time_is_foretold_from_what_was_measured(gklbench: CommandLine, here: Path) -> None:
    text = f"[train]\n{QUICK}seed = [0, 1]\nloss = ['trades', 'gkl']\nname = '{{loss}}{{seed}}'\n{EVAL}"
    suite = suite_of(here, text.replace("epochs = 1", "epochs = 10"))
    done = {cell.run: cell for cell in suite.trainings}["trades0"]
    run = finished_run(here / "checkpoints", done)
    make_record(
        ResultStore(here / "results"),
        outcome(stands=8, by="pgd-2"),
        model="trades0",
        attacks=("pgd-2",),
        seconds=70.0,
        weights_sha256=run.weights_sha256(),
    )
    result = gklbench("suite", here / "suite.toml", "--dry-run")
    assert result.code == 0
    foretold = {tuple(line.split()[:2]): line.split()[-1] for line in result.out.splitlines()}
    assert foretold["train", "gkl0"] == "unknown"
    assert foretold["train", "trades1"] == "0:00:22"  # two seconds an epoch, and the probes
    assert foretold["eval", "trades1"] == foretold["eval", "gkl0"] == "0:01:10"
    assert "8 cells: 2 done, 3 ready, 3 waiting" in result.out
    assert "2 cells unknown" in result.out


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails from here on
from robustbench_gkl.cli import run
sys.exit(run(sys.argv[1:]))
"""


def test_of_many_cells_only_those_that_are_not_done_are_run(here: Path) -> None:
    text = f"[train]\n{QUICK}seed = [{', '.join(map(str, range(250)))}]\nname = 'r{{seed}}'\n{EVAL}"
    suite = suite_of(here, text)
    assert len(suite.cells) == 500
    store = ResultStore(here / "results")
    record = make_record(store, outcome(stands=8), attacks=("pgd-2",))
    for number, cell in enumerate(suite.trainings):
        digest = finished_run(here / "checkpoints", cell).weights_sha256()
        if number % 50 != 7:
            model = record.model.model_copy(update={"name": cell.run, "weights_sha256": digest})
            other = record.model_copy(update={"id": f"{cell.run}-{digest[:12]}", "model": model})
            store.evaluations.save(other.sealed())
    command = [sys.executable, "-c", WITHOUT_TORCH, "suite", "suite.toml", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "500 cells: 495 done, 5 ready" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("eval")] == [
        "r7",
        "r57",
        "r107",
        "r157",
        "r207",
    ]
