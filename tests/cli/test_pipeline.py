"""The commands that a user would run, from recipe to leaderboard."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import TINY, CommandLine, process

import robustbench_gkl
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.store import VERDICT_COLUMNS

EVAL = ("eval", "tiny", "--n", 32, "--attack", "pgd:steps=3", "--attack", "fgsm")


@pytest.fixture
def workplace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained run in it, which is the current one."""
    shutil.copytree(trained, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_training_leaves_a_run_that_loads(workplace: Path) -> None:
    run = workplace / "checkpoints/tiny"
    assert {path.name for path in run.iterdir()} >= {
        "config.json",
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "metrics.csv",
    }
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2]
    assert metrics["val_robust_acc"].between(0, 100).all()
    model = robustbench_gkl.load_model("tiny")
    assert not model.training
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_evaluation_writes_record_and_verdicts(workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench(*EVAL)
    assert result.code == 0, result.err
    store = ResultStore(workplace / "results")
    (record,) = store.records()
    verdicts = store.verdicts(record)
    assert tuple(verdicts.columns) == VERDICT_COLUMNS
    assert verdicts["index"].tolist() == list(range(32))
    correct = verdicts["clean_pred"] == verdicts["label"]
    assert record.clean_acc == pytest.approx(100 * correct.mean())
    assert (verdicts["broken_by"].fillna("") == "clean").tolist() == (~correct).tolist()
    assert set(verdicts["broken_by"].dropna()) <= {"clean", "pgd-3", "fgsm"}
    standing = verdicts["broken_by"].isna()
    assert record.worst_case_acc == pytest.approx(100 * standing.mean())
    assert verdicts["adv_pred"].isna().equals(standing)
    fallen = ~standing & correct
    assert fallen.any()
    assert (verdicts.loc[fallen, "adv_pred"] != verdicts.loc[fallen, "label"]).all()
    assert verdicts.loc[fallen, "distance"].between(0, 0.1 + 1e-6).all()
    assert not list((workplace / "results/verdicts").glob("*.jsonl"))


def test_an_evaluation_is_done_once(workplace: Path, gklbench: CommandLine) -> None:
    assert "already" not in gklbench(*EVAL).out
    assert "already evaluated" in gklbench(*EVAL).out
    assert "already" not in gklbench(*EVAL, "--overwrite").out
    assert "already" not in gklbench(*EVAL, "--seed", 1).out
    assert len(list(ResultStore(workplace / "results").records())) == 2


def test_the_leaderboard_shows_all_models(workplace: Path, gklbench: CommandLine) -> None:
    arguments = ("train", "digits-standard", "--name", "plain", "--quiet", "--epochs", 2, "--set", "train_size=256")
    assert gklbench(*arguments).code == 0
    for name in ("tiny", "plain"):
        assert gklbench("eval", name, *EVAL[2:], "--quiet").code == 0
    printed = gklbench("leaderboard")
    assert printed.code == 0
    assert "tiny" in printed.out
    assert "plain" in printed.out
    gklbench("leaderboard", "--csv", "t.csv", "--markdown", "t.md", "--json", "t.json")
    table = pd.read_csv("t.csv")
    assert list(table.columns) == [
        "rank",
        "model",
        "loss",
        "arch",
        "dataset",
        "threat",
        "n",
        "clean_acc",
        "pgd-3",
        "after pgd-3+fgsm",
        "worst_case_acc",
        "ci_low",
        "ci_high",
        "checks",
        "params",
        "eval_seconds",
        "tier",
    ]
    assert table["rank"].tolist() == sorted(table["rank"])
    assert table["worst_case_acc"].is_monotonic_decreasing
    assert [row["model"] for row in json.loads(Path("t.json").read_text())] == table["model"].tolist()
    assert Path("t.md").read_text().count("\n") == 4
    assert robustbench_gkl.leaderboard("results")["model"].tolist() == table["model"].tolist()


def test_autoattack_through_the_command_line(workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench("eval", "tiny", "--n", 16, "--attack", "autoattack", "--eps", "0.05")
    assert result.code == 0, result.err
    (record,) = ResultStore(workplace / "results").records()
    assert [stage.name for stage in record.attacks[0].stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert record.threat.eps == "0.05"


def test_fail_under_is_a_gate(workplace: Path, gklbench: CommandLine) -> None:
    failed = gklbench(*EVAL, "--fail-under", 100)
    assert failed.code == 1
    assert failed.err.startswith("Error: robust accuracy")
    assert gklbench(*EVAL, "--fail-under", 0).code == 0


def test_quiet_prints_nothing(workplace: Path, gklbench: CommandLine) -> None:
    for arguments in (EVAL, ("leaderboard",)):
        result = gklbench(*arguments, "--quiet")
        assert (result.code, result.out, result.err) == (0, "", "")


def test_an_imported_checkpoint_gives_the_same_logits(workplace: Path, gklbench: CommandLine) -> None:
    model = robustbench_gkl.load_model("tiny")
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, "net.pt")
    arguments = ("import", "net.pt", "--model", "tiny-cnn", "--dataset", "digits", "--name")
    assert gklbench(*arguments, "copy").code == 0
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(robustbench_gkl.load_model("copy")(images), model(images))
    assert gklbench(*arguments, "shifted", "--mean", "0.5", "--std", "0.25").code == 0
    shifted = robustbench_gkl.load_model("shifted")
    torch.testing.assert_close(shifted(images), model((images - 0.5) / 0.25))
    assert "copy" in gklbench(*arguments, "copy").err


@pytest.mark.parametrize("kind", ["losses", "attacks", "models", "datasets", "recipes"])
def test_lists_name_and_describe(kind: str, gklbench: CommandLine) -> None:
    result = gklbench("list", kind)
    assert result.code == 0
    expected = {"losses": "gkl", "attacks": "autoattack", "models": "wrn-D-W", "datasets": "npz:PATH"}
    lines = result.out.splitlines()
    assert any(line.startswith(expected.get(kind, "digits-gkl")) for line in lines)
    assert all(len(line.split(None, 1)) == 2 for line in lines)


def test_options_win_over_the_recipe_and_are_saved(workplace: Path, gklbench: CommandLine) -> None:
    arguments = ("--loss", "pgd-at", "--eps", "2/255", "--lr", "0.05", "--set", "optimizer.momentum=0.5", *TINY)
    result = gklbench("train", "digits-gkl", *arguments, "--name", "mine")
    assert result.code == 0, result.err
    assert "settings: digits-gkl with " in result.out
    for line in ("loss: gkl -> pgd-at", "threat.eps: 0.1 -> 2/255", "optimizer.momentum: 0.9 -> 0.5"):
        assert line in result.out
    saved = json.loads(Path("checkpoints/mine/config.json").read_text())["train"]
    assert (saved["loss"], saved["threat"]["eps"], saved["optimizer"]["lr"]) == ("pgd-at", "2/255", 0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_training_saves_its_state(number: signal.Signals, tmp_path: Path) -> None:
    started = process("train", "digits-trades", "--name", "long", "--epochs", 500, cwd=tmp_path)
    wait_for(tmp_path / "checkpoints/long/metrics.csv")
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert err.count("\n") == 1
    assert (tmp_path / "checkpoints/long/state.pt").exists()


def test_interrupted_evaluation_goes_on(workplace: Path) -> None:
    arguments = ("eval", "tiny", "--attack", "pgd:steps=2000", "--batch-size", 16)
    started = process(*arguments, cwd=workplace)
    wait_for(workplace / "results/verdicts", "*.jsonl")
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert err.count("\n") == 1
    (journal,) = (workplace / "results/verdicts").glob("*.jsonl")
    assert journal.read_text().endswith("}\n")
    assert not list((workplace / "results/records").glob("*.json"))


def wait_for(folder: Path, pattern: str | None = None) -> None:
    """Wait until the file is there, or one in the folder that matches."""
    for _ in range(600):
        if folder.exists() and (pattern is None or any(folder.glob(pattern))):
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder} did not appear")
