"""Where torchattacks is not installed, every place that needs it says how to install it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustbench_gkl.attacks.specs.torchattacks import TorchAttack
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

ROOT = Path(__file__).parents[2]
LINE = r"torchattacks is not installed; pip install 'gklbench\[torchattacks\]'"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)


@pytest.mark.usefixtures("absent")
def test_an_attack_that_was_read_elsewhere_says_so() -> None:
    images, noise = torch.rand(2, 1, 4, 4), Noise(0, torch.arange(2))
    with pytest.raises(UserError, match=LINE):
        TorchAttack("PGD", ())(
            lambda x: x.flatten(1)[:, :2], images, torch.zeros(2).long(), ThreatModel("linf", 0.1), noise=noise
        )


@pytest.mark.parametrize(
    ("arguments", "prefix", "code"),
    [
        (("-m", "robustbench_gkl", "eval", "net", "--attack", "torchattacks.PGD"), "Error: ", 2),
        (("benchmarks/attacks.py", "pgd", "--n", "2"), "", 1),
    ],
)
def test_commands_and_benchmarks_say_so(
    tmp_path: Path, trained: Path, arguments: tuple[str, ...], prefix: str, code: int
) -> None:
    (tmp_path / "torchattacks.py").write_text("raise ImportError('not here')\n")
    arguments = tuple(str(trained / "tiny") if argument == "net" else argument for argument in arguments)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.strip() == f"{prefix}torchattacks is not installed; pip install 'gklbench[torchattacks]'"
