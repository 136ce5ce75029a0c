"""On linear models the shortest perturbation is known: attacks must find it, and nothing can do better."""

from __future__ import annotations

import pytest
import torch
from linear_model import Linear, optimum, samples

from robustbench_gkl import evaluate
from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

SHAPE = (3, 8, 8)
CASES = {
    "pgd": (2, 1.01),
    "apgd-ce": (2, 1.01),
    "apgd:objective=margin": (2, 1.01),
    "apgd:objective=prob-margin": (2, 1.01),
    "apgd-dlr": (5, 1.01),
    "apgd-t": (5, 1.01),
    "fab": (5, 1.02),
    "fab-t": (5, 1.02),
}
"""Number of classes and how far beyond the optimum each must succeed. With more than two classes the slope of the
cross-entropy mixes those of all boundaries, so that its ascent need not lead to the nearest."""


def _case(norm: str, *, classes: int = 5) -> tuple[Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    model = Linear(classes=classes, shape=SHAPE, seed=1)
    images = samples(6, SHAPE, seed=2)
    with torch.no_grad():
        labels = model(images).argmax(1)
    return model, images, labels, optimum(model, images, labels, norm)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("spec", CASES)
def test_breaks_just_beyond_the_optimum_and_never_before(spec: str, norm: str) -> None:
    classes, slack = CASES[spec]
    if norm == "l1" and spec.startswith("apgd"):
        slack = 1.1  # the published sparse steps come no closer here, where a single pixel is the optimum
    model, images, labels, best = _case(norm, classes=classes)
    for row in range(2):
        one = slice(row, row + 1)
        beyond = ThreatModel(norm, float(best[row]) * slack)
        below = ThreatModel(norm, float(best[row]) * 0.99)
        if spec.startswith("pgd"):
            spec = f"pgd:steps=50,step_size={float(best[row]) / 5:.6f}"
        assert evaluate(model, images[one], labels[one], beyond, spec).robust_acc == 0
        assert evaluate(model, images[one], labels[one], below, spec).robust_acc == 100


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_breaks_well_beyond_the_optimum(norm: str) -> None:
    model, images, labels, best = _case(norm)
    factor = {"linf": 2.0, "l2": 3.0, "l1": 8.0}[norm]
    threat = ThreatModel(norm, float(best.max()) * factor)
    below = ThreatModel(norm, float(best.min()) * 0.99)
    assert evaluate(model, images, labels, threat, "square:queries=500").robust_acc == 0
    assert evaluate(model, images, labels, below, "square:queries=100").robust_acc == 100


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("spec", ["pgd", "apgd-ce", "apgd-t", "fab-t", "square:queries=50"])
def test_as_a_function_an_attack_returns_points_of_the_threat_model(spec: str, norm: str) -> None:
    model, images, labels, best = _case(norm)
    threat = ThreatModel(norm, float(best.median()))
    found = parse_attack(spec)(model, images, labels, threat, noise=Noise(0, torch.arange(len(images))))
    assert bool(threat.contains(found, images).all())


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_with_few_classes_autoattack_still_finds_the_optimum(classes: int) -> None:
    model, images, labels, best = _case("linf", classes=classes)
    beyond = ThreatModel("linf", float(best.max()) * 1.01)
    below = ThreatModel("linf", float(best.min()) * 0.99)
    assert evaluate(model, images, labels, beyond, "autoattack").robust_acc == 0
    for spec in ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t"):
        assert evaluate(model, images, labels, beyond, spec).robust_acc < 100, spec
        assert evaluate(model, images, labels, below, spec).robust_acc == 100, spec


def test_quick_is_labelled_as_what_it_is_and_has_no_reference() -> None:
    quick = parse_attack("autoattack:version=quick")
    assert quick.label == "autoattack-quick"
    with pytest.raises(UserError, match="no published implementation"):
        quick.reference(ThreatModel("linf", 0.1))
    model, images, labels, best = _case("linf")
    assert evaluate(model, images, labels, ThreatModel("linf", float(best.max()) * 1.01), [quick]).robust_acc == 0
