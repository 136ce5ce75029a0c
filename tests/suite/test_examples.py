"""The suites of the distillation studies."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from suite_files import finished_run

from robustbench_gkl.config.idle import TAUGHT_LOSSES
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.results import leaderboard
from robustbench_gkl.suite import Suite, TrainCell, read_suite

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("name", ["cifar10-distillation", "cifar10-robust-distillation"])
def test_what_is_told_of_a_study_is_what_its_records_say(name: str) -> None:
    """Each row of the study's table in results/README.md holds a family's accuracy and rank, in the board's order."""
    folder = ROOT / "results" / "examples" / name
    board = leaderboard(folder, average_seeds=True)
    families = [row for row in board.to_dict("records") if pd.notna(row["rank"])]
    told = (ROOT / "results" / "README.md").read_text(encoding="utf-8").split(f"(`{name}`)")[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines()[2:]]
    assert len(rows) == len(families) > 4
    for cells, family in zip(rows, families, strict=True):
        assert family["loss"] in cells[0]
        assert f"{family['worst_case_acc']:.2f}" in cells
        assert cells[-1] == str(int(family["rank"]))
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "leaderboard.csv"), pd.read_csv(io.StringIO(leaderboard(folder).to_csv(index=False)))
    )
