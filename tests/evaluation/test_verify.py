"""Evaluations that deserve no belief are found out, and sound ones are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_models import Dropout, Rounded, Scaled, cifar, cnn_a, digits, digits_model
from torch import Tensor, nn

from robustbench_gkl import ThreatModel
from robustbench_gkl.attacks import AttackSpec
from robustbench_gkl.attacks.model import Model
from robustbench_gkl.evaluation import Evaluation, evaluate
from robustbench_gkl.evaluation.preflight import preflight
from robustbench_gkl.evaluation.verify import CHECKS, verify
from robustbench_gkl.noise import Noise
from robustbench_gkl.results.record import AttackResult, Check, StageResult

LINF = ThreatModel("linf", "0.1")


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


def evaluated(
    model: nn.Module, *attacks: str | AttackSpec, threat: ThreatModel = LINF, n: int = 64
) -> tuple[Evaluation, dict[str, str]]:
    """Return an evaluation on digits and the verdicts on it."""
    samples = digits(n)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = evaluate(model, samples.images, samples.labels, threat, attacks, keep_adversarial=True)
        return result, verdicts(verify(result, model, samples.images, samples.labels, threat))


@pytest.mark.parametrize("name", ["standard", "trades", "gkl", "wrn"])
@pytest.mark.parametrize("threat", [LINF, ThreatModel("l2", "0.5"), ThreatModel("l1", 2)], ids=str)
def test_sound_evaluations_pass(name: str, threat: ThreatModel) -> None:
    _, found = evaluated(digits_model(name), "pgd:steps=20", threat=threat)
    assert found == dict.fromkeys(list(CHECKS)[:-1], "PASS")


def test_sound_evaluations_of_a_real_model_pass(shared: Path) -> None:
    samples, model, threat = cifar(shared), cnn_a(shared), ThreatModel("linf", "2/255")
    images, labels = samples.images[:500], samples.labels[:500]
    result = evaluate(model, images, labels, threat, "pgd:steps=10", keep_adversarial=True)
    counted = Counted(model)
    found = preflight(counted, images, labels) + verify(result, counted, images, labels, threat)
    assert set(verdicts(found).values()) == {"PASS"}, found
    # AutoAttack spends on each sample that stands 100 steps of APGD, 9 x 100 of targeted APGD, a forward and a backward
    # pass each, and 5,000 queries of Square; FAB, which costs about as much as targeted APGD, is not even counted.
    assert counted.calls < 0.05 * int(result.standing.sum()) * (2 * 1000 + 5000)


class Counted(nn.Module):
    """A net that counts the images put through it, and those on the way back."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        self.calls += len(images) * (1 + logits.requires_grad)
        return logits


def test_the_black_box_attack_agrees_on_a_sound_model() -> None:
    _, found = evaluated(digits_model("trades"), "pgd:steps=20", "square", n=12)
    assert found == dict.fromkeys(CHECKS, "PASS")


def test_masked_gradients_are_found() -> None:
    result, found = evaluated(
        Rounded(digits_model("standard")), "pgd:steps=20", "square", threat=ThreatModel("linf", "0.2"), n=24
    )
    assert result.attacks[0].stages[0].broken < result.attacks[1].stages[0].broken
    assert found["large-eps"] == found["black-box"] == "FAIL"
    assert found["reverified"] == found["stored"] == "PASS"


def test_saturated_logits_are_found() -> None:
    _, found = evaluated(Scaled(digits_model("trades")), "pgd:steps=20")
    assert found["large-eps"] == "FAIL"


def test_successes_of_a_random_model_are_not_believed() -> None:
    model = Dropout(digits_model("trades"))
    result, found = evaluated(model, "pgd:steps=5")
    assert found["reverified"] == "FAIL"
    samples = digits(64)
    mild = verdicts(verify(result, model, samples.images, samples.labels, LINF, randomised=True))
    assert mild["reverified"] == "WARN"


class Nothing(AttackSpec):
    """An attack that does nothing."""

    name = "nothing"

    @property
    def label(self) -> str:
        return "nothing"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        return images

    def options(self) -> dict[str, object]:
        return {}


def test_noise_ahead_of_the_attacks_is_found() -> None:
    result, found = evaluated(digits_model("standard"), Nothing(), threat=ThreatModel("linf", "0.4"))
    assert result.robust_acc == result.clean_acc
    assert found["noise-baseline"] == "FAIL"
    assert "reverified" not in found
    assert "stored" not in found


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_images_that_were_changed_are_found(shift: float) -> None:
    model, samples = digits_model("standard"), digits(64)
    result = evaluate(model, samples.images, samples.labels, LINF, "pgd:steps=5", keep_adversarial=True)
    assert result.adversarial is not None
    changed = replace(result, adversarial=(result.adversarial.flip(3) if not shift else result.adversarial + shift))
    found = verdicts(verify(changed, model, samples.images, samples.labels, LINF))
    assert found["reverified"] == found["stored"] == "FAIL"


def test_images_that_were_not_kept_are_a_warning() -> None:
    model, samples = digits_model("standard"), digits(64)
    result = evaluate(model, samples.images, samples.labels, LINF, "pgd:steps=5")
    found = verdicts(verify(result, model, samples.images, samples.labels, LINF))
    assert found["reverified"] == "WARN"
    assert "stored" not in found


class Trap(nn.Module):
    """Small steps away from grey are caught where the margin peaks, 0.1 eps away; large ones get past 0.2 eps."""

    def forward(self, images: Tensor) -> Tensor:
        away = (images.mean((1, 2, 3)) - 0.5).abs() / LINF.radius
        hill = torch.where(away < 0.1, away, 0.2 - away)
        other = torch.where(away < 0.2, hill - 1, away)
        return torch.stack([torch.zeros_like(other), other], 1)


def test_more_steps_that_break_fewer_are_found() -> None:
    images, labels = torch.full((80, 1, 16, 16), 0.5), torch.zeros(80, dtype=torch.long)
    result = evaluate(Trap(), images, labels, LINF, "pgd:steps=40", keep_adversarial=True)
    assert result.robust_acc == 100
    assert verdicts(verify(result, Trap(), images, labels, LINF))["more-steps"] == "FAIL"


def stage(name: str, attacked: int, broken: int) -> StageResult:
    return StageResult(name=name, attacked=attacked, broken=broken, rejected=0, seconds=0, forwards=0, backwards=0)


@pytest.mark.parametrize(
    ("stages", "verdict"),
    [
        ([stage("apgd-ce", 900, 400), stage("square", 500, 0)], "PASS"),
        ([stage("apgd-ce", 900, 400), stage("square", 500, 5)], "PASS"),
        ([stage("apgd-ce", 900, 400), stage("square", 500, 20)], "WARN"),
        ([stage("apgd-ce", 900, 400), stage("square", 500, 100)], "FAIL"),
        ([stage("apgd-ce", 12, 8), stage("square", 4, 1)], "PASS"),
        ([stage("apgd-ce", 12, 2), stage("square", 10, 10)], "FAIL"),
        ([stage("square", 900, 400), stage("apgd-ce", 500, 100)], None),
        ([stage("apgd-ce", 900, 400)], None),
        ([stage("apgd-ce", 400, 400), stage("square", 0, 0)], None),
    ],
)
def test_square_is_counted_on_what_gradients_left(stages: list[StageResult], verdict: str | None) -> None:
    model, samples = digits_model("trades"), digits(12)
    result = evaluate(model, samples.images, samples.labels, LINF, "fgsm")
    result.attacks = [AttackResult(label="autoattack", robust_acc=0, stages=tuple(stages))]
    assert verdicts(verify(result, model, samples.images, samples.labels, LINF)).get("black-box") == verdict


def test_an_evaluation_without_a_right_answer_is_left_alone() -> None:
    model, samples = digits_model("trades"), digits(16)
    with torch.no_grad():
        wrong = (model(samples.images / 255).argmax(1) + 1) % 10
    result = evaluate(model, samples.images, wrong, LINF, "fgsm", keep_adversarial=True)
    assert verify(result, model, samples.images, wrong, LINF) == []


def test_verdicts_do_not_hang_on_the_batch_size() -> None:
    model, samples = digits_model("trades"), digits(64)
    result = evaluate(model, samples.images, samples.labels, LINF, "pgd:steps=5", keep_adversarial=True)
    assert result.adversarial is not None
    before = result.adversarial.clone()
    found = [verify(result, model, samples.images, samples.labels, LINF, batch_size=size) for size in (7, 250)]
    assert found[0] == found[1]
    assert torch.equal(result.adversarial, before)
    assert np.array_equal(result.index, np.arange(64))
