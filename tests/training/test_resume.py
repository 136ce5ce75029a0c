"""A run with everything on that is killed at random moments ends in the same weights."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.validation import validated
from robustbench_gkl.runs import Run
from robustbench_gkl.training import Interrupted, train

EVERYTHING: dict[str, Any] = {
    "dataset": "digits",
    "model": "wrn-10-1",
    "loss": "gkl",
    "label_smoothing": 0.1,
    "epochs": 2,
    "batch_size": 16,
    "train_size": 100,
    "augment": "crop-flip-cutout",
    "second_view": {"augment": "autoaugment"},
    "threat": {"eps": 0.1},
    "attack": {"budget": "high", "ramp": 1.0},
    "awp": {"gamma": 0.005, "start_epoch": 2},
    "optimizer": {"lr": 0.05, "nesterov": True, "no_decay": "batchnorm", "clip": 5.0},
    "schedule": {"name": "one-cycle", "per": "step", "pct_start": 0.3, "momentum_range": [0.85, 0.95]},
    "averaging": {"per": "step", "decay": 0.9, "warmup": 0.1},
    "probe": {"steps": 2},
}


SHORT = {key: EVERYTHING[key] for key in ("dataset", "model", "batch_size", "train_size")} | {"epochs": 1}


def with_everything(folder: Path, **changes: Any) -> TrainConfig:
    generator = np.random.default_rng(0)
    for number in range(2):
        np.savez(
            folder / f"generated{number}.npz",
            image=generator.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8),
            label=generator.integers(0, 10, 40),
        )
    files = [str(folder / f"generated{number}.npz") for number in range(2)]
    values = EVERYTHING | {"synthetic": {"files": files, "fraction": 0.7}} | changes
    return validated(TrainConfig, values, what="everything")


def save_teacher(folder: Path) -> None:
    """Write a run of the same architecture."""
    train(
        validated(TrainConfig, {**SHORT, "loss": "standard"}, what="teacher"), Run(folder), device=torch.device("cpu")
    )


def weights(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {name: run.load_model(name).state_dict() for name in run.available()}
    state = run.load_state()
    assert state is not None
    return found | {"loss": state["loss"]}


def assert_same(one: Run, other: Run) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for which, tensors in first.items():
        for key, value in tensors.items():
            assert torch.equal(value, second[which][key]), (which, key)


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    config = with_everything(tmp_path)
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    train(config, whole, device=torch.device("cpu"))
    (tmp_path / "recipe.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "robustbench_gkl", "train", str(tmp_path / "recipe.json"), "--name", "killed"]
    command += ["--checkpoints-dir", str(tmp_path), "--resume", "--save-every", "0", "--device", "cpu", "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    kills, moments = 0, random.Random(0)
    for _ in range(30):
        with subprocess.Popen(command, env=environment) as process:
            while not killed.exists() and process.poll() is None:
                time.sleep(0.01)
            before = (killed.folder / "state.pt").stat().st_mtime_ns if (killed.folder / "state.pt").exists() else 0
            while process.poll() is None and kills < 2:
                path = killed.folder / "state.pt"
                if path.exists() and path.stat().st_mtime_ns != before:  # it has got on: strike some steps later
                    time.sleep(moments.uniform(0, 0.4))
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.005)
            code = process.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills == 2
    assert_same(whole, killed)


@pytest.mark.parametrize(
    "changes",
    [
        {"averaging": {"per": "epoch"}, "second_view": {}, "cutmix": 0.5},
        {"loss": "gkl-kd", "loss_options": {"warmup": 3}, "teacher": "teacher", "second_view": {}},
        {"loss": "gkl-rd-adaptive", "teacher": "teacher", "init": "teacher", "averaging": {}, "awp": {}},
        {"loss": "mart", "averaging": {}, "optimizer": {"name": "adamw", "lr": 0.001}},
        {
            "model": "small-cnn",
            "train_size": 64,
            "batch_size": 16,
            "dataset": "npz",
            "synthetic": {},
            "second_view": {},
        },
    ],
    ids=["epoch-average-cutmix", "taught", "taught-init", "mart-adamw", "dropout"],
)
def test_a_run_stopped_after_any_step_goes_on_exactly(changes: dict[str, Any], tmp_path: Path) -> None:
    config = with_everything(tmp_path, **changes)
    if config.dataset == "npz":
        images = np.random.default_rng(1).integers(0, 256, (80, 16, 16), dtype=np.uint8)
        np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(80) % 10)
        config = config.model_copy(update={"dataset": f"npz:{tmp_path / 'set.npz'}"})
    if config.teacher is not None:
        save_teacher(tmp_path / "teacher")
    device = torch.device("cpu")
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    rows = train(config, whole, device=device)
    for after in (1, 4, 3, 100):
        left = [after]

        def count(event: object, left: list[int] = left) -> None:
            left[0] -= 1

        def done(left: list[int] = left) -> bool:
            return left[0] <= 1

        try:
            again = train(config, stopped, device=device, resume=True, on_event=count, should_stop=done)
        except Interrupted:
            continue
    assert_same(whole, stopped)
    timed = ("seconds", "images_per_second")
    assert [{k: v for k, v in row.items() if k not in timed} for row in again] == [
        {k: v for k, v in row.items() if k not in timed} for row in rows
    ]
