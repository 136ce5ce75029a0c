"""Each way to break a model is found by the check that is meant for it, and sound models pass all of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from broken_models import (
    CachesByFirstImage,
    CachesByShape,
    Detached,
    Dropout,
    ExpectsGreyLevels,
    ExpectsNormalised,
    LogSoftmax,
    NormalisedOnceMore,
    NotANumber,
    PaddedByTheBatch,
    RandomResize,
    Rounded,
    Scaled,
    Softmax,
    StuckInTraining,
    cifar,
    cnn_a,
    digits,
    digits_model,
    resnet18,
)
from torch import Tensor, nn

from robustbench_gkl import ThreatModel
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.checks.before import FIRST, REST, check_model
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.models.base import Normalize
from robustbench_gkl.models.published import load_published, read_checkpoint
from robustbench_gkl.results.record import Check


def failing(checks: list[Check], verdict: str = "FAIL") -> set[str]:
    return {check.name for check in checks if check.verdict == verdict}


@dataclass(frozen=True)
class Case:
    """A broken model, and all checks that must fail."""

    build: Callable[[], nn.Module]
    fails: set[str]
    labels: Callable[[Tensor], Tensor] = lambda labels: labels


def trades() -> nn.Module:
    return digits_model("trades")


def wrn() -> nn.Module:
    return digits_model("wrn")


BROKEN = {
    "batch-norm in training mode": Case(
        lambda: StuckInTraining(trades(), nn.BatchNorm2d(1, affine=False)), {"eval-mode", "batch-independent"}
    ),
    "dropout in training mode": Case(
        lambda: StuckInTraining(trades(), nn.Dropout(0.2)), {"eval-mode", "deterministic"}
    ),
    "functional dropout": Case(lambda: Dropout(trades()), {"deterministic"}),
    "random resize in front": Case(lambda: RandomResize(trades()), {"deterministic"}),
    "softmax at the output": Case(lambda: Softmax(trades()), {"logits"}),
    "logits times 1,000": Case(lambda: Scaled(trades()), {"logit-scale"}),
    "input rounded to 3 bits": Case(lambda: Rounded(trades()), {"gradients"}),
    "input detached": Case(lambda: Detached(trades()), {"gradients"}),
    "labels shifted up": Case(trades, {"labels"}, lambda labels: (labels + 1) % 10),
    "labels shifted down": Case(trades, {"labels"}, lambda labels: (labels - 1) % 10),
    "classes in another order": Case(trades, {"labels"}, lambda labels: (3 * labels + 2) % 10),
    "labels drawn by lot": Case(
        trades,
        {"labels"},
        lambda labels: labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))],
    ),
    "normalised twice": Case(lambda: NormalisedOnceMore(wrn()), {"input-scale"}),
    "normalisation missing": Case(lambda: ExpectsNormalised(wrn()), {"input-scale"}),
    "grey levels expected": Case(lambda: ExpectsGreyLevels(wrn()), {"input-scale"}),
    "cache by shape": Case(lambda: CachesByShape(trades()), {"batch-independent"}),
    "cache by first image": Case(lambda: CachesByFirstImage(trades()), {"batch-independent"}),
    "batch mean subtracted": Case(lambda: PaddedByTheBatch(trades()), {"batch-independent"}),
    "logits that are NaN": Case(lambda: NotANumber(trades()), {"finite"}),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_broken_models_fail_the_check_meant_for_them(case: Case) -> None:
    samples = digits()
    model = case.build()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checks = check_model(model, samples.images, case.labels(samples.labels))
    assert failing(checks) >= case.fails, checks
    # What else fails follows from the same defect: garbage has no accuracy and a cache no gradient.
    assert failing(checks) - case.fails <= {"labels", "gradients"}, checks
    for check in checks:
        assert bool(check.advice) == (check.verdict != "PASS")
        assert check.figure
        assert "\n" not in check.figure + check.advice


@pytest.mark.parametrize("name", ["standard", "trades", "gkl", "wrn"])
@pytest.mark.parametrize("n", [360, 64, 16])
def test_sound_models_pass(name: str, n: int) -> None:
    samples = digits(n)
    checks = check_model(digits_model(name), samples.images, samples.labels)
    assert [check.name for check in checks] == [*FIRST, *REST]
    assert failing(checks) | failing(checks, "WARN") == set(), checks


def test_sound_real_models_pass(shared: Path) -> None:
    samples = cifar(shared)
    for model, n in ((cnn_a(shared), 2000), (resnet18(), 16)):
        checks = check_model(model, samples.images[:n], samples.labels[:n])
        assert failing(checks) | failing(checks, "WARN") == set(), checks
    shifted = check_model(cnn_a(shared), samples.images, (samples.labels + 1) % 10)
    assert failing(shifted) == {"labels"}


def test_the_resnet_normalised_twice_is_flagged(shared: Path) -> None:
    samples = cifar(shared)
    model = NormalisedOnceMore(resnet18(), 0.473, 0.251)
    checks = check_model(model, samples.images[:24], samples.labels[:24])
    assert "input-scale" in failing(checks), checks


def renormalised(net: Classifier, mean: float, std: float) -> Classifier:
    """Return the net as ``import`` would make it with these constants."""
    wrong = deepcopy(net)
    wrong.normalize = Normalize([mean], [std], channels=net.input_shape[0])
    return wrong


@pytest.mark.parametrize("declared", [True, False])
def test_a_wrong_mean_and_std_are_a_warning(declared: bool) -> None:
    samples = digits()
    wrong: nn.Module = renormalised(digits_model("wrn"), 0.5, 0.5)
    if not declared:  # the same inside a module of another's
        wrong = NormalisedOnceMore(renormalised(digits_model("wrn"), 0, 1), 0.5, 0.5)
    checks = {check.name: check for check in check_model(wrong, samples.images, samples.labels)}
    found = checks["input-scale"]
    assert found.verdict in ("WARN", "FAIL"), found
    assert "the data's own instead of 0.5 and 0.5" in found.figure
    assert "--mean --std" in found.advice


def test_the_mean_and_std_of_real_models_are_told_from_wrong_ones(shared: Path) -> None:
    samples = cifar(shared)
    right = create_model(
        "cifar-resnet20", num_classes=10, input_shape=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ).eval()
    load_published(right, read_checkpoint(shared / "models/cifar10_resnet20.th"))
    for net, sound in ((right, True), (renormalised(right, 0.5, 0.5), False), (renormalised(right, 0, 1), False)):
        checks = {check.name: check for check in check_model(net, samples.images, samples.labels)}
        assert (checks["input-scale"].verdict == "PASS") is sound, checks["input-scale"]


@pytest.mark.parametrize("factor", [1e-3, 1.0, 5.0])
def test_moderate_logits_are_no_failure(factor: float) -> None:
    samples = digits()
    assert not failing(check_model(Scaled(digits_model("gkl"), factor), samples.images, samples.labels))


def test_log_probabilities_are_as_good_as_logits() -> None:
    samples = digits()
    checks = check_model(LogSoftmax(digits_model("trades")), samples.images, samples.labels)
    (check,) = [check for check in checks if check.name == "logits"]
    assert check.verdict == "PASS"
    assert "log-probabilities" in check.figure


def test_attacks_for_random_models_make_randomness_a_warning() -> None:
    samples = digits()
    checks = check_model(Dropout(digits_model("trades")), samples.images, samples.labels, randomised=True)
    assert "deterministic" in failing(checks, "WARN")
    assert not failing(checks)


class Linear(nn.Module):
    """Two or three classes told apart by the mean of the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        centres = torch.arange(self.classes) / (self.classes - 1)
        return -10 * (mean[:, None] - centres).square()


@pytest.mark.parametrize(("classes", "verdict"), [(2, "WARN"), (3, "WARN"), (4, "PASS"), (10, "PASS")])
def test_few_classes_are_said(classes: int, verdict: str) -> None:
    labels = torch.arange(60) % classes
    images = (labels / (classes - 1))[:, None, None, None].expand(60, 1, 4, 4).contiguous()
    checks = {check.name: check for check in check_model(Linear(classes), images, labels)}
    assert checks["classes"].verdict == verdict
    assert f"{min(9, classes - 1)} targets" in checks["classes"].figure
    assert checks["labels"].verdict == "PASS"


def test_a_single_class_is_a_warning_and_no_failure() -> None:
    samples, model = digits(), digits_model("trades")
    with torch.no_grad():
        zeros = (samples.labels == 0) & (model(samples.images / 255).argmax(1) == 0)
    assert zeros.sum() > 8
    checks = check_model(model, samples.images[zeros], samples.labels[zeros])
    assert failing(checks, "WARN") == {"labels"}, checks
    assert not failing(checks)


@pytest.mark.parametrize("size", [1, 50])
def test_small_batches_hide_nothing(size: int) -> None:
    samples = digits()
    checks = check_model(PaddedByTheBatch(digits_model("trades")), samples.images, samples.labels, batch_size=size)
    assert "batch-independent" in failing(checks)


def test_too_few_samples_are_a_warning_and_no_failure() -> None:
    samples = digits(1)
    wrong = (samples.labels + 5) % 10
    checks = check_model(digits_model("trades"), samples.images, wrong)
    assert "labels" in failing(checks, "WARN"), checks
    assert "labels" not in failing(checks)


def test_models_are_left_as_they_were() -> None:
    samples = digits(32)
    model = digits_model("wrn")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    first = check_model(model, samples.images, samples.labels)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert first == check_model(model, samples.images, samples.labels)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_input_is_refused() -> None:
    samples = digits(8)
    model = digits_model("trades")
    with pytest.raises(UserError, match=r"logits \(B, K\)"):
        check_model(nn.Sequential(model, nn.Unflatten(1, (2, 5))), samples.images, samples.labels)
    with pytest.raises(UserError, match=r"0\.\.9"):
        check_model(model, samples.images, samples.labels + 10)
    with pytest.raises(UserError, match="as many labels"):
        check_model(model, samples.images, samples.labels[:3])


def test_eps_in_grey_levels_is_refused() -> None:
    with pytest.raises(UserError, match=r"8/255"):
        ThreatModel("linf", 8)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_verdicts_are_the_same_on_cuda() -> None:
    samples = digits()
    for model in (digits_model("trades"), Rounded(digits_model("trades"))):
        here = check_model(model, samples.images, samples.labels)
        there = check_model(model.cuda(), samples.images, samples.labels)
        model.cpu()
        assert [(check.name, check.verdict) for check in here] == [(check.name, check.verdict) for check in there]
