"""What ``gklbench train`` makes of recipes, files and options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_gkl.cli import run as gklbench
from robustbench_gkl.runs import Run

SHORT = ["--epochs", "1", "--set", "train_size=80", "--set", "probe.steps=1", "--device", "cpu"]


def call(*arguments: object) -> int:
    return gklbench([str(argument) for argument in arguments])


def the_same(one: Path, other: Path) -> bool:
    first, second = (Run(folder).load_model("last").state_dict() for folder in (one, other))
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_saved_configuration_alone_trains_the_run_again(tmp_path: Path) -> None:
    given = ["--set", "awp.gamma=0.01", "--set", "awp.start_epoch=1", "--set", 'averaging.per="epoch"']
    assert call("train", "digits-trades", "--name", "first", "--checkpoints-dir", tmp_path, *SHORT, *given) == 0
    assert call("train", tmp_path / "first/config.json", "--name", "again", "--checkpoints-dir", tmp_path) == 0
    assert the_same(tmp_path / "first", tmp_path / "again")
    configs = [json.loads((tmp_path / name / "config.json").read_text())["train"] for name in ("first", "again")]
    assert configs[0] == configs[1]
    assert configs[0]["recipe"] == "digits-trades"
    assert configs[0]["awp"] == {"gamma": 0.01, "start_epoch": 1}


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_an_exported_recipe_trains(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"mine.{suffix}"
    assert call("train", "digits-gkl", *SHORT, "--set", "loss_options.beta=3.0", "--export", path) == 0
    assert not list(tmp_path.glob("*/config.json"))
    assert call("train", path, "--name", "a", "--checkpoints-dir", tmp_path) == 0
    config = Run(tmp_path / "a").config().train
    assert config is not None
    assert (config.epochs, config.train_size, config.loss_options) == (1, 80, {"beta": 3.0})
    assert call("train", "digits-gkl", "--export", tmp_path / "x.yaml") == 2
    assert "ends in .toml or .json" in capsys.readouterr().err


def test_generated_images_are_given_as_files(tmp_path: Path) -> None:
    for number in range(2):
        images = np.zeros((6, 8, 8, 1), dtype=np.uint8)
        np.savez(tmp_path / f"{number}.npz", image=images, label=np.zeros(6, dtype=np.int64))
    files = [tmp_path / "0.npz", tmp_path / "1.npz"]
    options = [option for file in files for option in ("--synthetic", file)]
    common = ["--checkpoints-dir", tmp_path, *SHORT]
    assert call("train", "digits-trades", "--name", "a", *common, *options, "--set", "synthetic.fraction=0.5") == 0
    config = Run(tmp_path / "a").config().train
    assert config is not None
    assert config.synthetic.files == tuple(map(str, files))
    assert config.synthetic.fraction == 0.5


def test_options_of_the_loss_belong_to_the_loss(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for given, expected in (
        (["--loss", "gkl", "--set", "loss_options.beta=3.0"], {"beta": 3.0}),
        (["trades-cifar10-wrn34-10"], {"beta": 6.0}),
        (["trades-cifar10-wrn34-10", "--loss", "pgd-at"], {}),
        (["trades-cifar10-wrn34-10", "--set", "loss=gkl", "--set", "loss_options.alpha=2.0"], {"alpha": 2.0}),
        (["trades-cifar10-wrn34-10", "--loss", "trades", "--set", "loss_options.beta=1.0"], {"beta": 1.0}),
    ):
        assert call("train", *given, "--export", path) == 0
        assert json.loads(path.read_text())["loss_options"] == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("attack.budget=lowest", "attack.budget"),
        ("awp.gama=0.1", "unknown key of awp 'gama'; did you mean 'gamma'?"),
        ("averaging.decay=1.0", "averaging.decay"),
        ("cutmix=0.5", "cutmix and second_view.augment cannot be combined"),
        ("precision=fp16", "precision"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "digits-gkl", "--set", 'second_view.augment="autoaugment"', "--set", option) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_differs_from_the_recipe_is_shown_and_all_of_it_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--checkpoints-dir", tmp_path, *SHORT, "--set", "attack.steps=1"]
    assert call("train", "digits-gkl", "--name", "a", "--lr", "0.05", *common) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "settings: digits-gkl with 5 changes (-v shows all)"
    changed = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines[2:7]}
    assert changed == {
        "optimizer.lr": "0.1 -> 0.05",
        "epochs": "40 -> 1",
        "train_size": "none -> 80",
        "probe.steps": "10 -> 1",
        "attack.steps": "none -> 1",
    }
    assert lines[-1] == f"evaluate them with: gklbench eval a --checkpoints-dir {tmp_path}"
    assert call("train", "digits-gkl", "--name", "b", "-v", *common) == 0
    assert "  optimizer.momentum = 0.9" in capsys.readouterr().out.splitlines()
    assert call("train", tmp_path / "a/config.json", "--name", "c", "--checkpoints-dir", tmp_path) == 0
    assert "config.json as it is (-v shows all)" in capsys.readouterr().out


def test_resume_says_where_it_goes_on_and_that_a_run_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustbench_gkl.cli.train_command.stop_on_signals", stop_after(3))
    settings = [*SHORT[2:], "--epochs", 3, "--set", "batch_size=32", "--set", "attack.steps=1"]  # two steps an epoch
    assert call("train", "digits-trades", "--name", "a", *settings) == 130
    assert "gklbench train --name a --resume goes on from here" in capsys.readouterr().err
    monkeypatch.setattr("robustbench_gkl.cli.train_command.stop_on_signals", stop_after(1))
    assert call("train", "--name", "a", "--resume") == 130
    out = capsys.readouterr().out
    assert "settings: those that it was started with (-v shows all)" in out
    assert "going on with epoch 2 of 3, step 2 of 2" in out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert call("train", "--name", "a", "--resume") == 0
    assert "going on with epoch 2 of 3, all of whose steps are taken\n" in capsys.readouterr().out
    before = (tmp_path / "checkpoints/a/last.safetensors").read_bytes()
    assert call("train", "--name", "a", "--resume") == 0
    out = capsys.readouterr().out
    assert "run a is finished: all 3 epochs are done; nothing was trained" in out
    assert out.splitlines()[-1] == "evaluate them with: gklbench eval a"
    assert (tmp_path / "checkpoints/a/last.safetensors").read_bytes() == before


def stop_after(steps: int) -> Callable[..., AbstractContextManager[Callable[[], bool]]]:
    """Return what stops a training after so many steps, as a signal would."""

    @contextmanager
    def stopping(*, second_at_once: bool = True) -> Iterator[Callable[[], bool]]:
        taken = iter([*[False] * (steps - 1), True])
        yield lambda: next(taken)

    return stopping
