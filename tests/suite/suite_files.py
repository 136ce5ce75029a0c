"""Suite files and runs that never took place, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.runs import Run, RunConfig
from robustbench_gkl.suite import Suite, TrainCell, read_suite

QUICK = """\
recipe = "digits-trades"
epochs = 1
train_size = 128
attack.steps = 1
probe.steps = 1
"""
"""Training keys that make a run a matter of a second."""
EVAL = """\
[[eval]]
attacks = ["pgd:steps=2"]
n = 8
"""


def write(folder: Path, text: str, name: str = "suite") -> Path:
    """Write a suite file."""
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def suite_of(folder: Path, text: str, **options: Any) -> Suite:
    """Return the suite that a file of this text describes."""
    return read_suite(write(folder, text), **options)


def train_config(suite: Suite, run: str) -> TrainConfig:
    """Return the settings of a run of the suite."""
    (cell,) = [cell for cell in suite.trainings if cell.run == run]
    return cell.config


def finished_run(checkpoints: Path, cell: TrainCell, *, epochs: int | None = None) -> Run:
    """Write the files of a run that ended (or stopped after ``epochs``)."""
    folder = checkpoints / cell.run
    folder.mkdir(parents=True)
    config = RunConfig(
        name=cell.run,
        arch=cell.config.model,
        num_classes=10,
        input_shape=(1, 8, 8),
        dataset=cell.config.dataset,
        train=cell.config,
        created="2026-01-01T00:00:00+00:00",
        environment={},
    )
    (folder / "config.json").write_text(config.model_dump_json())
    done = cell.config.epochs if epochs is None else epochs
    rows = [f"{epoch},{2.0 * epoch},100.0" for epoch in range(1, done + 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,seconds,images_per_second", *rows]) + "\n")
    weights = np.frombuffer(cell.key.encode(), dtype=np.uint8).astype(np.float32)
    save_file({"fc.weight": weights.reshape(4, 4)}, folder / "last.safetensors")
    return Run(folder)
