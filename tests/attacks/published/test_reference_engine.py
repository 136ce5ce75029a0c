"""The published implementations, run by the engine ``reference``, and our own agree on a linear model."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
import torch
from linear_model import Linear, optimum, samples

from robustbench_gkl import ThreatModel, evaluate
from robustbench_gkl.core.errors import UserError

SHAPE = (1, 4, 4)


@pytest.mark.parametrize("spec", ["apgd-ce", "apgd-t", "fab-t", "pgd:steps=40", "square"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_published_attacks_break_what_can_be_broken(spec: str, classes: int) -> None:
    model, images = Linear(classes=classes, shape=SHAPE, seed=0), samples(16, SHAPE, seed=1)
    labels = model(images).argmax(1)
    distance = optimum(model, images, labels, "linf")
    eps = float(distance.median())
    found = evaluate(model, images, labels, ThreatModel("linf", eps), spec, reference=True)
    breakable, out_of_reach = distance < 0.9 * eps, distance > 1.001 * eps
    assert breakable.any()
    assert out_of_reach.any()
    standing = torch.from_numpy(found.standing)
    assert standing[out_of_reach].all()
    if spec.endswith("-t") or (classes == 2 and spec != "square"):
        assert not standing[breakable].any()  # the others climb no margin, or search at random
    assert not standing[distance < 0.5 * eps].any()


def test_the_random_state_of_the_caller_is_left_alone() -> None:
    model, images = Linear(classes=3, shape=SHAPE, seed=0), samples(4, SHAPE, seed=1)
    before = torch.random.get_rng_state()
    first = evaluate(model, images, model(images).argmax(1), ThreatModel("linf", 0.02), "apgd-ce", reference=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    again = evaluate(model, images, model(images).argmax(1), ThreatModel("linf", 0.02), "apgd-ce", reference=True)
    assert first.verdicts().equals(again.verdicts())


def test_a_debugger_goes_on_after_the_published_attack() -> None:
    def trace(frame: FrameType, event: str, argument: object) -> None:
        return None

    model, images = Linear(classes=3, shape=SHAPE, seed=0), samples(4, SHAPE, seed=1)
    before = sys.gettrace()
    try:
        sys.settrace(trace)
        evaluate(model, images, model(images).argmax(1), ThreatModel("linf", 0.02), "apgd-ce", reference=True)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_attacks_without_a_published_form_are_refused() -> None:
    model, images = Linear(classes=3, shape=SHAPE, seed=0), samples(4, SHAPE, seed=1)
    for spec, norm in (("fgsm", "l2"), ("pgd:restarts=2", "linf"), ("pgd:objective=margin", "linf"), ("pgd", "l1")):
        with pytest.raises(UserError, match="--engine reference runs"):
            evaluate(model, images, model(images).argmax(1), ThreatModel(norm, 0.1), spec, reference=True)
