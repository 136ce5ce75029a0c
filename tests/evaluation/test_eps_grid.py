"""Accuracy against eps: the same answers as one evaluation a radius, for fewer model calls."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandLine

import robustbench_gkl
from robustbench_gkl import evaluate
from robustbench_gkl.config.options import parse_grid
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import load_dataset
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.evaluation.eps_grid import evaluate_curve
from robustbench_gkl.models import Classifier
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.journal import Journal

GRID = "0,1/50,1/25,3/50,2/25,1/10,3/25,7/50,4/25"
THREAT = ThreatModel("linf", "0.1")


@pytest.fixture(scope="module")
def model(trained: Path) -> Classifier:
    return robustbench_gkl.load_model(trained / "tiny")


@pytest.fixture(scope="module")
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    test = load_dataset("digits").load("test")
    return test.images[:120], test.labels[:120]


def calls(results: list[Evaluation]) -> int:
    stages = [stage for result in results for attack in result.attacks for stage in attack.stages]
    return sum(stage.forwards + stage.backwards for stage in stages)


def test_the_curve_is_what_separate_evaluations_give(
    model: Classifier, samples: tuple[torch.Tensor, torch.Tensor]
) -> None:
    radii = parse_grid(GRID)
    curve = evaluate_curve(model, *samples, THREAT, radii, "pgd:steps=20")
    separate = [evaluate(model, *samples, THREAT.with_eps(radius), "pgd:steps=20") for radius in radii[1:]]
    assert curve[0].robust_acc == curve[0].clean_acc == separate[0].clean_acc
    differing = sum(int(np.sum(one.standing != other.standing)) for one, other in zip(curve[1:], separate, strict=True))
    assert differing <= 0.01 * curve[0].n * len(separate)
    assert calls(curve) <= 0.5 * calls(separate)
    assert curve[-1].robust_acc < curve[0].robust_acc


def test_more_is_allowed_more_falls_and_the_closest_image_is_kept(
    model: Classifier, samples: tuple[torch.Tensor, torch.Tensor]
) -> None:
    radii = parse_grid(GRID)
    curve = evaluate_curve(model, *samples, THREAT, radii, "pgd:steps=10")
    for smaller, larger in itertools.pairwise(curve):
        assert np.all(smaller.standing | ~larger.standing)
    for radius, result in zip(radii, curve, strict=True):
        assert np.nanmax(result.distance) <= float(radius) + 1e-6
        fallen = ~result.standing
        assert (result.adv_pred[fallen] != result.label[fallen]).all()
        assert result.attacks[0].robust_acc == result.robust_acc


def test_a_killed_curve_goes_on(model: Classifier, samples: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    radii = parse_grid(GRID)
    whole = evaluate_curve(model, *samples, THREAT, radii, "pgd:steps=5", journal=Journal(tmp_path / "whole"))
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    (tmp_path / "part").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    resumed = evaluate_curve(model, *samples, THREAT, radii, "pgd:steps=5", journal=Journal(tmp_path / "part"))
    for one, other in zip(whole, resumed, strict=True):
        assert one.verdicts().equals(other.verdicts())


def test_grids() -> None:
    assert parse_grid("2/255, 0,1/255") == (Fraction(0), Fraction(1, 255), Fraction(2, 255))
    for text in ("1/255,1/255", "0", "1/255,x", ""):
        with pytest.raises(UserError):
            parse_grid(text)


def test_the_command_writes_a_record_a_radius(
    trained: Path, gklbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("eval", trained / "tiny", "--attack", "pgd:steps=5", "--n", 32, "--eps-grid", "0,0.05,0.1")
    result = gklbench(*arguments)
    assert result.code == 0, result.err
    records = sorted(ResultStore(tmp_path / "results").records(), key=lambda record: float(record.threat.eps))
    assert [record.threat.eps for record in records] == ["0", "0.05", "0.1"]
    assert records[0].worst_case_acc == records[0].clean_acc
    assert records[0].worst_case_acc >= records[1].worst_case_acc >= records[2].worst_case_acc
    assert all(record.protocol[0]["eps_grid"] == "0,0.05,0.1" for record in records)
    before = [path.stat().st_mtime_ns for path in (tmp_path / "results/records").iterdir()]
    assert gklbench(*arguments).code == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "results/records").iterdir()] == before
    shown = gklbench("reproduce", "tiny", "--dry-run").out
    assert shown.count("--eps-grid 0,0.05,0.1") == 1
    assert "one --attack" in gklbench(*arguments, "--attack", "fgsm").err


def test_reproduce_trains_and_evaluates_again(
    trained: Path, gklbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gklbench("eval", trained / "tiny", "--attack", "pgd:steps=3", "--n", 64).code == 0
    shown = gklbench("reproduce", "tiny", "--dry-run")
    assert shown.code == 0, shown.err
    assert "gklbench train digits-trades" in shown.out
    assert "--attack pgd:steps=3" in shown.out
    assert not (tmp_path / "checkpoints").exists()
    done = gklbench("reproduce", "tiny")
    assert done.code == 0, done.err
    (original,) = (record for record in ResultStore(tmp_path / "results").records() if record.model.name == "tiny")
    accuracy = f"{original.worst_case_acc:.2f} %"
    assert f"tiny-reproduced: {accuracy}, before {accuracy}" in done.out
    assert gklbench("reproduce", "none").code == 2
