"""Evaluation from Python: what callers have is understood or refused in a line, and a record is the command's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_models import digits, digits_model
from torch import nn

import robustbench_gkl as gkl
from robustbench_gkl.cli import run
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.results import ResultStore
from robustbench_gkl.runs import weights_sha256

SAMPLES = digits(40)
LINF = ("linf", "0.1")


def evaluated(**changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "model": digits_model("trades"),
        "images": SAMPLES.images,
        "labels": SAMPLES.labels,
        "threat": LINF,
        "attacks": "pgd:steps=5",
    }
    return gkl.evaluate(**(values | changes))


def test_arrays_lists_and_tensors_are_the_same() -> None:
    known = evaluated().broken_by.tolist()
    assert None in known
    assert any(name not in (None, "clean") for name in known)
    array = SAMPLES.images.numpy()
    for images in (array, array.tolist(), (array / 255).astype(np.float32), torch.from_numpy(array / 255.0)):
        if isinstance(images, list):
            images = np.array(images, dtype=np.uint8)
        assert evaluated(images=images, labels=SAMPLES.labels.tolist()).broken_by.tolist() == known


def test_a_record_is_made_once_and_read_again(tmp_path: Path) -> None:
    where = {"name": "mine", "results_dir": tmp_path, "dataset": "digits"}
    first = evaluated(**where)
    assert first.record is not None
    assert {check.name for check in first.record.checks} >= {"eval-mode", "gradients", "reverified", "more-steps"}
    assert first.record.model.code_sha256
    again = evaluated(**where)
    assert again.record == first.record
    assert again.broken_by.tolist() == first.broken_by.tolist()
    assert again.robust_acc == first.robust_acc
    assert again.verdicts().equals(first.verdicts())
    (row,) = gkl.leaderboard(tmp_path).to_dict("records")
    assert row["model"] == "mine"
    assert row["worst_case_acc"] == first.robust_acc
    assert len(list(ResultStore(tmp_path).records())) == 1


def test_another_class_with_the_same_weights_is_another_model(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = digits_model("trades")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = 2 * self.net(images)
            return logits

    class Same(Doubled):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(images)
            return logits

    found = [
        evaluated(model=kind(), name=f"net{number}", results_dir=tmp_path, dataset="digits", attacks="fgsm").record
        for number, kind in enumerate((Doubled, Same))
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].model.weights_sha256 == found[1].model.weights_sha256
    assert found[0].model.model_sha256 != found[1].model.model_sha256


def test_clean_accuracy_alone(tmp_path: Path) -> None:
    found = evaluated(attacks=[], name="mine", results_dir=tmp_path, dataset="digits")
    assert found.record is not None
    assert found.robust_acc == found.clean_acc == found.record.clean_acc


def test_chosen_samples_say_so(tmp_path: Path) -> None:
    index = np.arange(100, 140)
    found = evaluated(index=index, name="mine", results_dir=tmp_path, dataset="digits", attacks="fgsm")
    assert found.record is not None
    assert found.record.data.sample_set == "chosen"
    assert found.record.data.index_ranges == ((100, 140),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 1), dtype=np.uint8)}, r"looks like \(N, H, W, C\)"),
        ({"images": np.full((40, 1, 8, 8), 200.0)}, "divide them by 255"),
        ({"images": np.full((40, 1, 8, 8), -1.0)}, "take back the normalisation"),
        ({"images": np.full((40, 1, 8, 8), np.nan)}, "NaN"),
        ({"images": np.zeros((40, 1, 8, 8), dtype=np.int64)}, "convert them to uint8"),
        ({"images": [["a"]]}, "array of numbers|shape"),
        ({"images": np.zeros((0, 1, 8, 8))}, "N at least 1"),
        ({"labels": np.zeros(3, dtype=np.int64)}, "labels must be 40 integers"),
        ({"labels": np.zeros((40, 10), dtype=np.int64)}, "argmax"),
        ({"threat": "linf"}, "threat must be"),
        ({"threat": ("linfty", "8/255")}, "unknown norm"),
        ({"model": lambda images: images}, "torch.nn.Module"),
        ({"name": "mine"}, "name, results_dir and dataset"),
        ({"results_dir": "results"}, "name, results_dir and dataset"),
        ({"attacks": "pgd:step=3"}, "unknown option"),
        ({"model": nn.Flatten(0), "name": "x", "results_dir": "r", "dataset": "digits"}, r"logits \(B, K\)"),
    ],
)
def test_bad_input_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        evaluated(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", ["Linf", "LINF", "linf", "l_inf", "inf"])
def test_norms_are_spelled_in_many_ways(norm: str) -> None:
    assert str(gkl.ThreatModel(norm, "8/255")) == "linf 8/255"


def test_the_weights_are_those_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same net from a file and from Python has one hash of weights and of data, and neither hides the other."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "digits", "--n", "40", "--eps", "0.1", "--norm", "linf", "--attack", "pgd:steps=10"]
    assert run(["eval", "net.py:build", "--name", "mine", "--quiet", *options]) == 0
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    made = evaluated(model=net, attacks="fgsm", name="mine", results_dir=tmp_path / "results", dataset="digits").record
    assert made is not None
    (other,) = [record for record in ResultStore(tmp_path / "results").records() if record.id != made.id]
    assert made.model.weights_sha256 == other.model.weights_sha256
    assert made.data == other.data
    assert gkl.leaderboard(tmp_path / "results")["tier"].tolist() == ["gradient", "other"]


def test_a_loaded_run_is_not_wrapped_again(trained: Path, tmp_path: Path) -> None:
    model = gkl.load_model("tiny", checkpoints_dir=trained)
    made = evaluated(model=model, name="tiny", results_dir=tmp_path, dataset="digits").record
    assert made is not None
    assert made.model.weights_sha256 == weights_sha256(model)


def test_the_indices_belong_to_the_question(tmp_path: Path) -> None:
    where = {"name": "mine", "results_dir": tmp_path, "dataset": "digits"}
    first = evaluated(**where).record
    assert evaluated(**where, index=range(40)).record == first
    later = evaluated(**where, index=np.arange(100, 140)).record
    assert first is not None
    assert later is not None
    assert later.id != first.id
    assert later.data.index_ranges == ((100, 140),)


@pytest.mark.parametrize("index", [[0] * 40, [-1, *range(39)], range(39), np.linspace(0, 1, 40)])
def test_indices_that_name_no_samples_are_refused(index: Any) -> None:
    with pytest.raises(UserError, match="index must"):
        evaluated(index=index)
