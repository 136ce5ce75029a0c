"""The suites of the distillation studies."""

from __future__ import annotations

from pathlib import Path

from suite_files import finished_run

from robustbench_gkl.config.idle import TAUGHT_LOSSES
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.suite import Suite, TrainCell, read_suite


def study(name: str, checkpoints: Path) -> Suite:
    finished_run(checkpoints, TrainCell("resnet56", TrainConfig()))
    return read_suite(Path(name), checkpoints_dir=checkpoints)


def test_the_study_of_distillation(tmp_path: Path) -> None:
    suite = study("cifar10-distillation", tmp_path)
    losses = {"standard", "kd", "kd-standardised", "dkd", "gkl-kd"}
    runs = {cell.run: cell.config for cell in suite.trainings}
    assert set(runs) == {f"{loss}-seed{seed}" for loss in losses for seed in (0, 1, 2)}
    assert all(config.teacher == ("resnet56" if config.loss in TAUGHT_LOSSES else None) for config in runs.values())
    assert all(config.validation_fraction == 0 for config in runs.values())
    assert sorted(cell.run for cell in suite.evaluations) == sorted([*runs, "resnet56"])
    assert {cell.config.attacks for cell in suite.evaluations} == {("none",)}


def test_the_study_of_robust_distillation(tmp_path: Path) -> None:
    suite = study("cifar10-robust-distillation", tmp_path)
    losses = {"trades", "gkl", "ard", "rslad", "adaad", "gkl-rd"}
    runs = {cell.run: cell.config for cell in suite.trainings}
    teacher = runs.pop("teacher")
    assert set(runs) == {f"{loss}-seed{seed}" for loss in losses for seed in (0, 1)}
    assert all(config.teacher == ("teacher" if config.loss in TAUGHT_LOSSES else None) for config in runs.values())
    assert {config.threat for config in runs.values()} == {teacher.threat}
    assert {(cell.config.attacks, cell.config.n) for cell in suite.evaluations} == {(("autoattack",), 500)}
