"""Evaluations that deserve no belief are found out, and sound ones are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_models import Dropout, Rippled, RootOfZero, Rounded, Scaled, cifar, cnn_a, digits, digits_model
from torch import Tensor, nn

from robustbench_gkl import ThreatModel, evaluate
from robustbench_gkl.attacks import AttackSpec
from robustbench_gkl.attacks.model import Model
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.evaluation.checks.after import CHECKS, check_evaluation
from robustbench_gkl.evaluation.checks.attacked import Attacked
from robustbench_gkl.evaluation.checks.before import check_model
from robustbench_gkl.evaluation.checks.black_box import LONG, black_box, judged
from robustbench_gkl.evaluation.engine import measure
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import Check

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
        return result, verdicts(check_evaluation(result, model, samples.images, samples.labels, threat))


@pytest.mark.parametrize("name", ["standard", "trades", "gkl", "wrn"])
@pytest.mark.parametrize("threat", [LINF, ThreatModel("l2", "0.5"), ThreatModel("l1", 2)], ids=str)
def test_sound_evaluations_pass(name: str, threat: ThreatModel) -> None:
    _, found = evaluated(digits_model(name), "pgd:steps=20", threat=threat)
    # Where few samples are left, Square could tell nothing of them.
    assert set(CHECKS) - {"black-box"} <= set(found)
    assert set(found.values()) == {"PASS"}


class Dead(nn.Module):
    """A net of two classes whose logits are both zero on dark images, which is the first class to an argmax."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        bright: Tensor = (images.mean((1, 2, 3)) - 0.45).relu()
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


def test_ties_of_logits_that_are_zero_are_at_the_edge() -> None:
    images, labels = torch.full((4, 1, 2, 2), 0.5), torch.ones(4, dtype=torch.int64)
    result = evaluate(Dead(), images, labels, LINF, "pgd:steps=3", keep_adversarial=True)
    assert not result.standing.any()
    found = verdicts(check_evaluation(result, Dead(), images, labels, LINF))
    assert (found["reverified"], found["stored"]) == ("PASS", "PASS")


def test_sound_evaluations_of_a_real_model_pass(shared: Path) -> None:
    samples, model, threat = cifar(shared), cnn_a(shared), ThreatModel("linf", "2/255")
    images, labels = samples.images[:500], samples.labels[:500]
    result = evaluate(model, images, labels, threat, "pgd:steps=10", keep_adversarial=True)
    counted = Counted(model)
    found = check_model(counted, images, labels) + check_evaluation(result, counted, images, labels, threat)
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


@pytest.mark.parametrize("name", ["standard", "trades", "gkl", "wrn"])
@pytest.mark.parametrize(
    ("attack", "n"), [("pgd:steps=20", 360), ("fgsm", 360), ("apgd-ce", 64), ("autoattack", 8)], ids=str
)
def test_no_attack_makes_a_sound_model_suspect(name: str, attack: str, n: int) -> None:
    result, _ = evaluated(digits_model(name), attack, n=n)
    finding = black_box(aftermath(result, digits_model(name)))
    assert finding is None or finding.verdict == "PASS" or (attack == "fgsm" and "too weak" in finding.advice), finding


def aftermath(
    result: Evaluation, model: nn.Module, threat: ThreatModel = LINF, *, seed: int = 0, randomised: bool = False
) -> Attacked:
    samples, device = digits(result.n), torch.device("cpu")
    return Attacked(model.eval(), samples.images, samples.labels, threat, result, seed, 250, device, randomised)


LARGE = ThreatModel("linf", "0.2")


@pytest.mark.parametrize(
    ("attacks", "n"),
    [
        (["pgd:steps=20"], 200),
        (["pgd:steps=20", "square:queries=5"], 200),
        (["pgd:steps=20", "square:queries=500"], 64),
        (["pgd:steps=20", "torchattacks.Square:n_queries=300"], 64),
    ],
    ids=str,
)
def test_gradients_that_mislead_are_found(attacks: list[str], n: int) -> None:
    if "torchattacks" in attacks[-1]:
        pytest.importorskip("torchattacks")
    result, found = evaluated(Rippled(digits_model("trades")), *attacks, threat=LARGE, n=n)
    assert found["black-box"] == "FAIL"
    left = [stage.attacked - stage.broken for stage in result.attacks[0].stages]
    assert left[0] > 0.8 * n


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_misleading_gradients_are_found_with_any_random_numbers(seed: int) -> None:
    model = Rippled(digits_model("trades"))
    result, _ = evaluated(model, "pgd:steps=20", threat=LARGE, n=200)
    finding = black_box(aftermath(result, model, LARGE, seed=seed))
    assert finding is not None
    assert finding.verdict == "FAIL"


@pytest.mark.parametrize("attacks", [["pgd:steps=20"], ["apgd-ce:steps=5"], ["pgd:steps=20", "square:queries=100"]])
@pytest.mark.parametrize("broken", [False, True])
def test_the_probe_takes_no_more_calls_than_the_attacks(attacks: list[str], broken: bool) -> None:
    net = digits_model("trades")
    model = Rippled(net) if broken else net
    for n in (24, 100):
        result, _ = evaluated(model, *attacks, threat=LARGE, n=n)
        counted = Counted(model)
        black_box(aftermath(result, counted, LARGE))
        stages = [stage for attack in result.attacks for stage in attack.stages]
        assert counted.calls <= sum(stage.forwards + stage.backwards for stage in stages)


def test_a_weak_attack_is_told_from_misleading_gradients() -> None:
    model = Scaled(digits_model("trades"))
    _, found = evaluated(model, "pgd:steps=20", "square:queries=500", n=100)
    assert found["black-box"] == "WARN"


@pytest.mark.parametrize("attack", ["pgd:steps=20", "apgd-ce:steps=10,evaluations=5"])
def test_lucky_answers_are_no_masking(attack: str) -> None:
    model = Dropout(digits_model("trades"))
    result, _ = evaluated(model, attack, n=100)
    finding = black_box(aftermath(result, model, randomised="evaluations" in attack))
    assert finding is not None
    assert finding.verdict == "PASS", finding


def test_images_that_were_not_kept_count_as_fooling() -> None:
    model = Rippled(digits_model("trades"))
    result, found = evaluated(model, "pgd:steps=20", "square:queries=500", threat=ThreatModel("linf", "0.2"), n=64)
    assert found["black-box"] == "FAIL"
    assert result.has_adversarial is not None
    result.has_adversarial[result.broken_by == "square:queries=500"] = False
    finding = black_box(aftermath(result, model, threat=ThreatModel("linf", "0.2")))
    assert finding is not None
    assert finding.verdict == "FAIL", finding


def test_gradients_that_are_not_finite_are_found(tmp_path: Path) -> None:
    model, samples = RootOfZero(digits_model("trades")), digits(32)
    bright = int((samples.images.float().mean((1, 2, 3)) / 255 > 0.3).sum())
    assert 0 < bright < 32
    journal = Journal(tmp_path / "journal")
    for _ in range(2):  # the second time from the journal
        result = measure(
            model, samples.images, samples.labels, LINF, ["pgd:steps=5", "apgd-t:steps=5"], journal=journal
        )
        pgd, targeted = (attack.stages[0] for attack in result.attacks)
        assert 0 < pgd.nonfinite < pgd.backwards
        assert 0 < targeted.nonfinite < targeted.backwards
    checks = {check.name: check for check in check_evaluation(result, model, samples.images, samples.labels, LINF)}
    assert checks["finite-gradients"].verdict == "FAIL"
    assert checks["finite-gradients"].scope == "attack"
    assert str(pgd.nonfinite + targeted.nonfinite) in checks["finite-gradients"].figure


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
    mild = verdicts(check_evaluation(result, model, samples.images, samples.labels, LINF, randomised=True))
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
    found = verdicts(check_evaluation(changed, model, samples.images, samples.labels, LINF))
    assert found["reverified"] == found["stored"] == "FAIL"


def test_images_that_were_not_kept_are_a_warning() -> None:
    model, samples = digits_model("standard"), digits(64)
    result = evaluate(model, samples.images, samples.labels, LINF, "pgd:steps=5")
    found = verdicts(check_evaluation(result, model, samples.images, samples.labels, LINF))
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
    assert verdicts(check_evaluation(result, Trap(), images, labels, LINF))["more-steps"] == "FAIL"


@pytest.mark.parametrize(
    ("attacked", "broken", "checked", "left", "verdict"),
    [
        (500, 0, 0, 0, "PASS"),
        (500, 5, 5, 5, "PASS"),
        (500, 20, 20, 20, "WARN"),
        (500, 100, 100, 100, "FAIL"),
        (500, 100, 100, 0, "WARN"),
        (500, 100, 10, 10, "FAIL"),
        (500, 100, 1, 1, "WARN"),
        (500, 100, 0, 0, "WARN"),
        (4, 1, 1, 1, "PASS"),
        (10, 10, 10, 10, "FAIL"),
    ],
)
def test_what_square_breaks_is_judged_by_what_apgd_leaves(
    attacked: int, broken: int, checked: int, left: int, verdict: str
) -> None:
    finding = judged("square", attacked, broken, checked, left, LONG)
    assert finding.verdict == verdict
    assert ("too weak" in finding.advice) == (verdict == "WARN" and left < 2)


@pytest.mark.parametrize("attacks", [["square:queries=50"], ["fgsm"], []], ids=str)
def test_without_gradients_or_calls_nothing_is_probed(attacks: list[str]) -> None:
    _, found = evaluated(digits_model("trades"), *attacks, n=24)
    assert "black-box" not in found


def test_an_evaluation_without_a_right_answer_is_left_alone() -> None:
    model, samples = digits_model("trades"), digits(16)
    with torch.no_grad():
        wrong = (model(samples.images / 255).argmax(1) + 1) % 10
    result = evaluate(model, samples.images, wrong, LINF, "fgsm", keep_adversarial=True)
    assert check_evaluation(result, model, samples.images, wrong, LINF) == []


def test_verdicts_do_not_hang_on_the_batch_size() -> None:
    model, samples = digits_model("trades"), digits(64)
    result = evaluate(model, samples.images, samples.labels, LINF, "pgd:steps=5", keep_adversarial=True)
    assert result.adversarial is not None
    before = result.adversarial.clone()
    found = [
        check_evaluation(result, model, samples.images, samples.labels, LINF, batch_size=size) for size in (7, 250)
    ]
    assert found[0] == found[1]
    assert torch.equal(result.adversarial, before)
    assert np.array_equal(result.index, np.arange(64))
