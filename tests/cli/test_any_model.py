"""From a stranger's model to a row on the board: one command, whatever the model is."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import CommandLine, process, ranks

import robustbench_gkl as gkl
from robustbench_gkl.results import Record, ResultStore

NET = """
import torch
from torch import nn
from sklearn.datasets import load_digits


class Scaled(nn.Module):
    def forward(self, images):
        return (images - 0.5) / 0.25


def linear():
    '''Least squares on the digits after normalisation: a sound model without a training.'''
    data = load_digits()
    images = torch.tensor(data.images[:1000] / 16, dtype=torch.float64).flatten(1)
    images = torch.cat([(images - 0.5) / 0.25, torch.ones(1000, 1, dtype=torch.float64)], 1)
    targets = 5 * torch.nn.functional.one_hot(torch.tensor(data.target[:1000]), 10).double()
    left = images.T @ images + 10 * torch.eye(65, dtype=torch.float64)
    weights = torch.linalg.solve(left, images.T @ targets).float()
    layer = nn.Linear(64, 10)
    layer.load_state_dict({"weight": weights[:64].T.contiguous(), "bias": weights[64].contiguous()})
    return nn.Sequential(nn.Flatten(), layer)


def inside():
    return nn.Sequential(Scaled(), linear())
"""
DIGITS = ("--dataset", "digits", "--norm", "linf", "--eps", "0.05", "--n", 40)
OUTSIDE = ("--mean", "0.5", "--std", "0.25")
QUICK = ("--attack", "autoattack:version=quick")


@pytest.fixture
def net(here: Path) -> Path:
    """A working folder with a net in a file."""
    (here / "net.py").write_text(NET)
    return here


def records(folder: Path, name: str) -> list[Record]:
    found = [record for record in ResultStore(folder).records() if record.model.name == name]
    return sorted(found, key=lambda record: record.created)


def verdicts(folder: Path, name: str) -> pd.DataFrame:
    (record,) = records(folder, name)
    return ResultStore(folder).verdicts(record)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    found: list[dict[Any, Any]] = gkl.leaderboard(folder).to_dict("records")
    return {row["model"]: row for row in found}


def test_one_command_makes_a_ranked_row_with_normalisation_inside_or_outside(net: Path, gklbench: CommandLine) -> None:
    out = gklbench("eval", "net.py:linear", "--name", "outside", *OUTSIDE, *DIGITS)
    assert out.code == 0, out.err
    assert gklbench("eval", "net.py:inside", "--name", "inside", *DIGITS).code == 0
    board = rows(net / "results")
    for row in board.values():
        assert (row["rank"], row["tier"]) == (1, "autoattack")
        assert row["checks"] != "FAIL"
        assert 0 < row["worst_case_acc"] < row["clean_acc"]
    assert verdicts(net / "results", "outside").equals(verdicts(net / "results", "inside"))


def test_the_usual_threat_is_used_and_said(net: Path, gklbench: CommandLine) -> None:
    data = np.zeros((8, 28, 28), np.uint8)
    np.savez("data.npz", x_train=data, y_train=np.arange(8), x_test=data, y_test=np.arange(8))
    unknown = gklbench("eval", "net.py:linear", "--dataset", "npz:data.npz")
    assert unknown.code == 2
    assert "no usual threat is known for npz:data.npz" in unknown.err
    said = gklbench("eval", "net.py:linear", "--dataset", "mnist", "--data-dir", "none", "--n", 8, "--attack", "fgsm")
    assert said.code == 2
    assert "mnist, linf 0.3 (the usual threat of mnist; --norm and --eps choose another)" in " ".join(said.out.split())
    given = gklbench("eval", "net.py:linear", *OUTSIDE, *DIGITS, "--attack", "fgsm")
    assert "usual" not in given.out


def test_an_edited_net_is_another_model(net: Path, gklbench: CommandLine) -> None:
    command = ("eval", "net.py:linear", "--name", "mine", *OUTSIDE, *DIGITS, "--attack", "fgsm")
    assert gklbench(*command).code == 0
    assert "already evaluated" in gklbench(*command).out
    (net / "net.py").write_text(NET + "\n# edited\n")
    assert "already evaluated" not in gklbench(*command).out
    first, second = records(net / "results", "mine")
    assert first.model.weights_sha256 == second.model.weights_sha256
    assert first.model.model_sha256 != second.model.model_sha256


def test_shards_are_merged_and_reproduced_from_another_folder(
    net: Path, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("eval", "net.py:linear", *OUTSIDE, *DIGITS, "--attack", "pgd:steps=5")
    assert gklbench(*command, "--name", "whole").code == 0
    for shard in ("1/2", "2/2"):
        joined = gklbench(*command, "--name", "parts", "--shard", shard, "--results-dir", net / "results")
    found = re.search(r"merge (\S+)", joined.out)
    assert found is not None
    (net / "elsewhere").mkdir()
    monkeypatch.chdir(net / "elsewhere")
    merged = gklbench("merge", found[1], "--results-dir", net / "results")
    assert merged.code == 0, merged.err
    assert verdicts(net / "results", "parts").equals(verdicts(net / "results", "whole"))
    monkeypatch.chdir(net)
    again = gklbench("reproduce", found[1])
    assert again.code == 0, again.err
    assert verdicts(net / "results", "parts-reproduced").equals(verdicts(net / "results", "whole"))


def test_two_ranks_share_the_samples(net: Path, gklbench: CommandLine) -> None:
    command = ("eval", "net.py:linear", *OUTSIDE, *DIGITS, "--attack", "pgd:steps=5", "--device", "cpu")
    out, err = (started := ranks(*command, "--name", "ranks", cwd=net)).communicate()
    assert started.returncode == 0, out + err
    assert gklbench(*command, "--name", "alone").code == 0
    assert verdicts(net / "results", "ranks").equals(verdicts(net / "results", "alone"))


def test_check_and_parity_take_it_too(net: Path, gklbench: CommandLine) -> None:
    checked = gklbench("check", "net.py:linear", *OUTSIDE, *DIGITS)
    assert checked.code == 0, checked.out
    parity = gklbench("parity", "net.py:linear", *OUTSIDE, *DIGITS, "--attack", "apgd-ce")
    assert parity.code == 0, parity.err
    assert "same verdict on" in parity.out


def adversarial(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return index and images that an evaluation has kept."""
    (record,) = records(folder, name)
    with np.load(ResultStore(folder).adversarial_path(record.id)) as kept:
        return kept["index"], kept["images"]


class TestSubmittedImages:
    """Images of one evaluation are submitted against the same net in another results folder."""

    @pytest.fixture
    def submitted(self, net: Path, gklbench: CommandLine) -> tuple[np.ndarray, np.ndarray]:
        options = ("--results-dir", "first", "--save-adversarial", 40, *DIGITS, "--attack", "pgd:steps=20")
        assert gklbench("eval", "net.py:inside", "--name", "mine", *options).code == 0
        index, images = adversarial(net / "first", "mine")
        assert len(index) > 3
        return index, images

    def test_true_ones_lower_the_row_and_take_no_rank(
        self, net: Path, gklbench: CommandLine, submitted: tuple[np.ndarray, np.ndarray]
    ) -> None:
        index, images = submitted
        evaluate = ("eval", "net.py:inside", "--name", "mine", *DIGITS, "--attack")
        assert gklbench(*evaluate, "pgd:steps=10,objective=dlr,random_start=false,step_size=0.001").code == 0
        before = rows(net / "results")["mine"]
        np.savez("some.npz", images=images[:3], index=index[:3])
        assert gklbench(*evaluate, "images:some.npz").code == 0
        some = rows(net / "results")["mine"]
        np.savez("all.npz", images=images, index=index)
        assert gklbench(*evaluate, "images:all.npz").code == 0
        row = rows(net / "results")["mine"]
        assert before["worst_case_acc"] >= some["worst_case_acc"] >= row["worst_case_acc"]
        assert before["worst_case_acc"] > row["worst_case_acc"] == rows(net / "first")["mine"]["worst_case_acc"]
        assert {(each["rank"], each["tier"]) for each in (before, some, row)} == {(1, "gradient")}
        broken = verdicts(net / "first", "mine")["broken_by"] == "pgd-20"
        newest = records(net / "results", "mine")[-1]
        fell = ResultStore(net / "results").verdicts(newest)["broken_by"].str.startswith("images-").fillna(False)
        assert fell.tolist() == broken.fillna(False).tolist()

    def test_those_outside_the_ball_are_refused_by_count_and_cost_no_rank(
        self, net: Path, gklbench: CommandLine, submitted: tuple[np.ndarray, np.ndarray]
    ) -> None:
        index, images = submitted
        evaluate = ("eval", "net.py:inside", "--name", "mine", *DIGITS, "--attack")
        assert gklbench(*evaluate, "pgd:steps=10").code == 0
        before = rows(net / "results")["mine"]
        np.savez("far.npz", images=1 - images, index=index)
        refused = gklbench(*evaluate, "images:far.npz")
        assert refused.code == 0
        assert f"{len(index)} of " in refused.out
        assert "rejected" in refused.out
        (row,) = rows(net / "results").values()
        kept = ("rank", "tier", "worst_case_acc", "checks")
        assert [row[key] for key in kept] == [before[key] for key in kept]


def test_a_suite_evaluates_it_beside_a_trained_run_with_a_loss_of_the_users(net: Path) -> None:
    (net / "loss.py").write_text(
        "from robustbench_gkl.losses.base import LOSSES, Loss\n\n\n@LOSSES.register('mine')\nclass Mine(Loss):\n"
        "    '''Twice the cross-entropy.'''\n\n    kinds = {'ce': 'robust'}\n\n"
        "    def __init__(self, *, num_classes):\n        super().__init__()\n\n"
        "    def terms(self, logits, labels):\n"
        "        return {'ce': 2 * self.cross_entropy(logits.adv, labels)}\n"
    )
    (net / "mine.toml").write_text(
        'models = ["net.py:inside", {model = "net.py:linear", name = "scaled", mean = [0.5], std = [0.25]}]\n'
        '[train]\ndataset = "digits"\nmodel = "tiny-cnn"\nloss = "mine"\neps = "0.05"\nepochs = 1\ntrain_size = 64\n'
        'attack.steps = 1\nprobe.steps = 1\n[[eval]]\nattacks = ["fgsm"]\nn = 20\ndataset = "digits"\nnorm = "linf"\n'
        'eps = "0.05"\n'
    )
    command = ("suite", "mine.toml", "--jobs", 2, "--device", "cpu", "--plugin", "loss.py")

    def outcome() -> str:
        out, err = (started := process(*command, cwd=net)).communicate()
        assert started.returncode == 0, out + err
        return out

    assert "4 cells: 3 ready, 1 waiting" in outcome()
    assert sorted(rows(net / "results")) == ["mine-tiny-cnn-digits-seed0", "net-inside", "scaled"]
    run = json.loads((net / "checkpoints/mine-tiny-cnn-digits-seed0/config.json").read_text())
    assert run["train"]["loss"] == "mine"
    assert "4 cells: 4 done" in outcome()
    (net / "net.py").write_text(NET + "\n# edited\n")
    assert "4 cells: 2 done, 2 ready" in outcome()
    assert "4 cells: 4 done" in outcome()


PYTHON = """
import sys
import robustbench_gkl as gkl
from net import inside
from pathlib import Path

samples = gkl.load_dataset("digits").load("test").take(range(40))
Path("started").touch()
made = gkl.evaluate(inside(), samples.images, samples.labels, ("Linf", "0.05"), "autoattack", name="mine",
                    results_dir="results", dataset="digits", batch_size=4)
print(made.record.id, made.robust_acc)
"""


def python(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "mine.py"], cwd=folder, stdout=subprocess.PIPE, text=True)


def test_python_goes_on_after_a_kill_and_two_processes_make_one_record(net: Path) -> None:
    (net / "mine.py").write_text(PYTHON)
    killed = python(net)
    while not list((net / "results").rglob("*.jsonl")) and killed.poll() is None:
        time.sleep(0.05)
    assert list((net / "results").rglob("*.jsonl")), "killed in the middle"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    both = [python(net), python(net)]
    said = {each.communicate()[0] for each in both}
    assert [each.returncode for each in both] == [0, 0]
    assert len(said) == 1
    assert len(records(net / "results", "mine")) == 1
