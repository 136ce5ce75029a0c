"""What the Python interface returns shows itself in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from broken_models import digits, digits_model

import robustbench_gkl as gkl
from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import Classifier
from robustbench_gkl.results import Record

SAMPLES = digits(20)


def evaluated(**changes: object) -> Evaluation:
    arguments = {"attacks": "fgsm", "threat": ("linf", "0.1")} | changes
    return gkl.evaluate(digits_model("trades"), SAMPLES.images, SAMPLES.labels, **arguments)  # type: ignore[arg-type]


def test_an_evaluation_and_its_record(tmp_path: Path) -> None:
    result = evaluated(name="mine", results_dir=tmp_path, dataset="digits")
    figures = f"20 samples: clean {result.clean_acc:.2f}, robust {result.robust_acc:.2f}, fgsm)"
    assert repr(result) == f"Evaluation(mine, linf 0.1, {figures}"
    assert repr(result.record) == str(result.record) == f"Record(mine, digits test, linf 0.1, {figures}"
    (attack,) = result.attacks
    fallen = (result.broken_by == "fgsm").sum()
    assert repr(attack) == f"AttackResult(fgsm, {result.robust_acc:.2f} after it; broken by fgsm {fallen})"
    read = evaluated(name="mine", results_dir=tmp_path, dataset="digits")
    assert repr(read) == repr(result)


def test_an_evaluation_without_name_or_attack() -> None:
    result = evaluated(attacks=[])
    assert repr(result) == f"Evaluation(TinyCNN, linf 0.1, 20 samples: clean {result.clean_acc:.2f})"


def test_certificates_and_partial_results_show() -> None:
    result = gkl.certify(digits_model("trades"), SAMPLES.images[:4], SAMPLES.labels[:4], ("linf", "0.001"))
    assert result.proved
    assert f", certified {25 * result.proved:.2f}, robust {result.robust_acc:.2f}, certify)" in repr(result)
    result.partial = True
    assert f"robust at most {result.robust_acc:.2f}" in repr(result)


@pytest.mark.parametrize(
    ("thing", "shown"),
    [
        (gkl.ThreatModel("Linf", "8/255"), "ThreatModel('linf', '8/255')"),
        (SAMPLES, "ImageSet(20 images of 1x8x8, uint8, 10 classes)"),
        (gkl.load_dataset("digits"), "Digits()"),
        (parse_attack("autoattack"), "AutoAttack(version='standard')"),
        (create_loss("trades", num_classes=10, options={"beta": 3}), "TRADES(beta=3.0)"),
        (
            create_loss("gkl", num_classes=10),
            "GKL(alpha=4.0, beta=20.0, gamma=1.0, inner_alpha=1.0, inner_beta=1.0)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_line_each(thing: object, shown: str) -> None:
    assert repr(thing) == shown


def test_a_model_shows_its_layers_when_printed() -> None:
    model: Classifier = gkl.create_model("tiny-cnn", num_classes=10, input_shape=(1, 8, 8))
    assert repr(model).startswith("TinyCNN(1x8x8 to 10 classes, 9,930 parameters")
    assert "(conv1): Conv2d(1, 16" in str(model)
    assert "TinyCNN(1x8x8" in repr(torch.nn.Sequential(model))


def test_a_record_of_before_shows_itself_too() -> None:
    path = next((Path(__file__).parents[1] / "results" / "examples" / "digits" / "records").glob("*.json"))
    assert "\n" not in repr(Record.read(path.read_bytes(), what=path.name))
