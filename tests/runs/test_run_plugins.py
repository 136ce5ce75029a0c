"""A run keeps the plugins that it was made with, and they are loaded when it is used again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, process

from robustbench_gkl.runs import RunConfig

PLUGIN = """
import torch.nn.functional as F
from robustbench_gkl.losses.base import LOSSES, Loss
from robustbench_gkl.models.base import MODELS
from robustbench_gkl.models.tiny_cnn import TinyCNN

@LOSSES.register("alp")
class ALP(Loss):
    \"\"\"Adversarial logit pairing.\"\"\"

    kinds = {"robust": "robust", "pairing": "robust"}

    def __init__(self, *, num_classes: int, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def terms(self, logits, labels):
        pairing = self.weight * (logits.adv - logits.clean).square().mean()
        return {"robust": F.cross_entropy(logits.adv, labels), "pairing": pairing}

@MODELS.register("own-net")
class OwnNet(TinyCNN):
    \"\"\"The smoke-test model under another name.\"\"\"
"""
TRAIN = ("train", "digits-trades", "--loss", "alp", "--model", "own-net", "--set", "loss_options={}", "--name", "mine")

LOAD = """
from robustbench_gkl import load_model
print(type(load_model("mine")).__name__)
"""


def _run(*arguments: object, cwd: Path, code: int = 0) -> str:
    started = process(*arguments, cwd=cwd)
    out, err = started.communicate(timeout=120)
    assert started.returncode == code, out + err
    return err if code else out


@pytest.fixture
def trained_with_plugin(here: Path) -> Path:
    (here / "own.py").write_text(PLUGIN)
    _run(*TRAIN, "--plugin", "own.py", *TINY, "--quiet", cwd=here)
    return here


def test_a_run_is_resumed_loaded_and_evaluated_without_naming_its_plugin(trained_with_plugin: Path) -> None:
    here = trained_with_plugin
    config = json.loads((here / "checkpoints/mine/config.json").read_text())
    (argument,) = config["plugins"]
    assert argument == str(here / "own.py")
    assert len(config["plugins"][argument]) == 64
    out = _run("eval", "mine", "--attack", "pgd:steps=2", "--n", 16, cwd=here)
    assert "after pgd-2" in out
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=here, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "OwnNet", done.stderr
    saved = (here / "checkpoints/mine/last.safetensors").read_bytes()
    (here / "checkpoints/mine/state.pt").unlink()
    _run("train", "--name", "mine", "--resume", "--quiet", cwd=here)
    assert (here / "checkpoints/mine/last.safetensors").read_bytes() == saved


def test_a_changed_or_missing_plugin_is_one_line(trained_with_plugin: Path) -> None:
    here = trained_with_plugin
    evaluate = ("eval", "mine", "--attack", "none", "--n", 16)
    (here / "own.py").write_text(PLUGIN + "\n# changed\n")
    line = _run(*evaluate, cwd=here, code=2)
    assert line.count("\n") == 1
    assert "run mine was made with another version of the plugin" in line
    # Given in its place, another version evaluates, and never trains on.
    out = process(*evaluate, "--plugin", "own.py", cwd=here)
    assert "another version of the plugin" in out.communicate()[1]
    assert out.returncode == 0
    line = _run("train", "--name", "mine", "--resume", "--plugin", "own.py", cwd=here, code=2)
    assert "another version of the plugin" in line
    # The same code from another place is the same plugin.
    (here / "own.py").unlink()
    line = _run(*evaluate, cwd=here, code=2)
    assert line.count("\n") == 1
    assert "which is not there any more; give it with --plugin" in line
    (here / "moved.py").write_text(PLUGIN)
    _run(*evaluate, "--plugin", "moved.py", "--overwrite", cwd=here)


def test_runs_of_earlier_versions_have_no_plugins(trained: Path) -> None:
    saved = json.loads((trained / "tiny/config.json").read_text())
    assert saved.pop("plugins") == {}
    assert RunConfig.model_validate(saved).plugins == {}
