"""Every command in the README works, on smaller settings where it would take long."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from command_line import CommandLine

from robustbench_gkl.config.idle import CLEAN_LOSSES
from robustbench_gkl.models import create_model

README = Path(__file__).parents[1] / "README.md"
SMALLER = {
    "train": ["--epochs", "1", "--set", "train_size=128", "--set", "probe.steps=1"],
    "eval": ["--n", "4"],
    "check": ["--n", "16"],
    "parity": ["--n", "4"],
    "suite": [
        *("--set", "train.epochs=1", "--set", "train.train_size=128", "--set", "train.seed=0"),
        *("--set", "train.loss=trades", "--set", "train.attack.steps=1", "--set", "train.probe.steps=1"),
        *("--set", "train.awp.start_epoch=1"),
        *("--set", 'eval.attacks=["fgsm"]', "--set", "eval.n=4", "--set", "eval.eps=0.1"),
    ],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash") + blocks("yaml")).replace("\\\n", " ").splitlines()
    return [shlex.split(line.strip(), comments=True)[1:] for line in lines if line.strip().startswith("gklbench ")]


def test_the_commands_of_the_readme_work(
    gklbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(README.parent))  # for the workers of the suite
    (net, _) = blocks("python")
    Path("net.py").write_text(net)
    (suite,) = blocks("toml")
    Path("suite.toml").write_text(suite)
    shutil.copytree(README.parent / "results" / "examples", "results/examples")
    torch.save(create_model("tiny-cnn", num_classes=10, input_shape=(1, 8, 8)).state_dict(), "published.pt")
    ran = 0
    for command in commands():
        smaller = [] if {"--resume", "--export"} & set(command) else SMALLER.get(command[0], [])
        if smaller and command[0] == "train" and not CLEAN_LOSSES & set(command):
            smaller = [*smaller, "--set", "attack.steps=1"]
        if "--fail-under" in command:
            command[command.index("--fail-under") + 1] = "0"
        result = gklbench(*command, *smaller)
        # A net trained for one epoch may well fail its check-up, which is exit code 1.
        assert result.code in ((0, 1) if command[0] == "check" else (0,)), (command, result.err)
        ran += 1
    assert ran >= 25


def test_the_python_of_the_readme_works(
    gklbench: CommandLine, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gklbench("eval", trained / "tiny", "--attack", "fgsm", "--n", 4).code == 0
    (_, code) = blocks("python")
    code = code.replace('load_model("gkl")', f"load_model({str(trained / 'tiny')!r})")
    code = code.replace("test.images, test.labels", "test.images[:4], test.labels[:4]")
    assert str(trained) in code
    assert "[:4]" in code
    namespace: dict[str, object] = {}
    exec(compile(code.replace("print(", "_ = ("), str(README), "exec"), namespace)
    assert namespace["result"]
