"""``gklbench check``, and the checks that ``gklbench eval`` makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from command_line import CommandLine
from safetensors.torch import load_file, save_file

from robustbench_gkl import leaderboard
from robustbench_gkl.evaluation.checks.before import FIRST, REST
from robustbench_gkl.results import ResultStore


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sound run, ``tiny``, one with logits times 100,000, ``loud``, and one of NaN weights, ``nan``."""
    for name, factor in (("tiny", 1.0), ("loud", 1e5), ("nan", torch.nan)):
        shutil.copytree(trained / "tiny", tmp_path / "checkpoints" / name)
        path = tmp_path / "checkpoints" / name / "best.safetensors"
        weights = load_file(path)
        for key in ("linear.weight", "linear.bias"):
            weights[key] *= factor
        save_file(weights, path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sound_model_passes(workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench("check", "tiny")
    assert result.code == 0, result.out + result.err
    lines = {line.split()[0]: line for line in result.out.splitlines()[2:]}
    assert list(lines)[: len(FIRST) + len(REST)] == [*FIRST, *REST]
    assert {"reverified", "stored", "noise-baseline", "more-steps", "large-eps"} <= set(lines)
    assert all("FAIL" not in line for line in lines.values())
    assert not (workplace / "results").exists()


@pytest.mark.parametrize(("name", "check"), [("loud", "logit-scale"), ("nan", "finite")])
def test_a_broken_model_fails_with_exit_code_1(name: str, check: str, workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench("check", name, "--n", 64)
    assert result.code == 1
    (line,) = [line for line in result.out.splitlines() if line.startswith(check)]
    assert "FAIL" in line
    assert result.err.startswith(f"Error: {name} fails ")
    assert check in result.err
    assert result.err.count("\n") == 1
    quiet = gklbench("check", name, "--n", 64, "--quiet")
    assert (quiet.code, quiet.out) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--eps", 8), "8/255"),
        (("--norm", "l3"), "l3"),
        (("--n", 5000), "360"),
        (("--n", 0), "n"),
        (("--device", "gpu"), "auto, cpu, cuda"),
        (("--dataset", "digit"), "did you mean 'digits'?"),
        (("--weights", "average"), "best, last"),
    ],
)
def test_bad_input_to_check(arguments: tuple[object, ...], says: str, workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench("check", "tiny", *arguments)
    assert result.code == 2, result.out
    assert says in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("threat", [("--norm", "l2", "--eps", "0.5"), ("--norm", "l1", "--eps", 3)])
def test_other_norms(threat: tuple[object, ...], workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench("check", "tiny", *threat, "--n", 32, "--seed", 1)
    assert result.code == 0, result.out + result.err


def test_a_failed_check_is_told_recorded_and_never_ranked(workplace: Path, gklbench: CommandLine) -> None:
    options = ("--n", 128, "--attack", "pgd:steps=3")
    sound, loud = gklbench("eval", "tiny", *options), gklbench("eval", "loud", *options)
    assert sound.code == loud.code == 0
    assert "FAIL" not in sound.out
    told = [line for line in loud.out.splitlines() if line.startswith("FAIL logit-scale")]
    assert "never ranked" in told[0]
    records = {record.model.name: record for record in ResultStore(workplace / "results").records()}
    assert records["tiny"].verdict != "FAIL"
    assert records["loud"].verdict == "FAIL"
    names = [check.name for check in records["tiny"].checks]
    assert names[: len(FIRST) + len(REST) + 1] == [*FIRST, *REST, "candidates-in-ball"]
    assert "reverified" in names
    table = leaderboard("results").set_index("model")
    assert table.loc["tiny", "rank"] == 1
    assert table["rank"].isna()["loud"]
    assert table.loc["loud", "checks"] == "FAIL"


def test_images_too_large_to_keep_are_a_warning(
    workplace: Path, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustbench_gkl.evaluation.recorded.MOST_KEPT", 0)
    assert gklbench("eval", "tiny", "--n", 128, "--attack", "pgd:steps=3").code == 0
    (record,) = ResultStore(workplace / "results").records()
    assert {check.name: check.verdict for check in record.checks}["reverified"] == "WARN"
