"""An own loss in a suite, trained and evaluated by two workers."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import process
from suite_files import EVAL, QUICK, write

from robustbench_gkl.results import ResultStore

PLUGIN = '''
import torch.nn.functional as F
from robustbench_gkl.losses.base import LOSSES, Loss
from robustbench_gkl.models.base import MODELS
from robustbench_gkl.models.tiny_cnn import TinyCNN

@LOSSES.register("own-loss")
class OwnLoss(Loss):
    """Cross-entropy of adversarial images."""

    outer_reads = ("adv",)
    kinds = {"robust": "robust"}

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()

    def terms(self, logits, labels):
        return {"robust": F.cross_entropy(logits.adv, labels)}

@MODELS.register("own-net")
class OwnNet(TinyCNN):
    """The smoke-test model under another name."""
'''


def test_two_workers_train_and_evaluate_with_a_plugin(here: Path) -> None:
    (here / "own.py").write_text(PLUGIN)
    text = f'[train]\n{QUICK}loss = "own-loss"\nmodel = "own-net"\nloss_options = {{}}\nseed = [0, 1]\n{EVAL}'
    path = write(here, text)
    started = process("suite", path, "--jobs", 2, "--device", "cpu", "--plugin", "own.py", cwd=here)
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, out + err
    configs = [json.loads(file.read_text()) for file in (here / "checkpoints").glob("*/config.json")]
    assert [list(config["plugins"]) for config in configs] == [[str(here / "own.py")]] * 2
    records = list(ResultStore(here / "results").records())
    assert {record.model.loss for record in records} == {"own-loss"}
    assert len(records) == 2
    # A suite over the runs needs no --plugin: each brings its own.
    names = [config["name"] for config in configs]
    models = write(here, f'models = {json.dumps(names)}\n[[eval]]\nattacks = ["pgd:steps=3"]\nn = 8\n', name="again")
    again = process("suite", models, cwd=here)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, out + err
    assert len(list(ResultStore(here / "results").records())) == 4
