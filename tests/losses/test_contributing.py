"""The loss in CONTRIBUTING.md, as a newcomer would copy it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.validation import bind_options
from robustbench_gkl.losses import LOSSES, Logits, Loss, create_loss
from robustbench_gkl.models import create_model
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import Views

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def _example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the block be registered for the time of a test."""
    LOSSES.entries()
    monkeypatch.setattr(LOSSES, "_entries", dict(vars(LOSSES)["_entries"]))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "example"})


@pytest.mark.usefixtures("_example")
def test_the_example_is_registered_and_is_its_formula() -> None:
    loss = create_loss("alp", num_classes=4, options={"weight": "0.25"})
    clean, adv, labels = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    pairing = 0.25 * (adv - clean).square().mean()
    torch.testing.assert_close(loss.outer(Logits(clean, adv), labels), F.cross_entropy(adv, labels) + pairing)
    assert next(entry.summary for entry in LOSSES.entries() if entry.name == "alp").startswith("Adversarial logit")


@pytest.mark.usefixtures("_example")
def test_the_example_trains() -> None:
    config = TrainConfig.model_validate({"loss": "alp", "attack": {"steps": 2}})
    model = create_model("tiny-cnn", num_classes=4, input_shape=(1, 8, 8))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss = create_loss("alp", num_classes=4)
    stepper = Stepper(config, model=model, loss=loss, optimizer=build_optimizer(config.optimizer, model, loss))
    views = Views(torch.rand(6, 1, 8, 8), torch.arange(6) % 4)
    measured = stepper.step(
        views, threat=config.threat.threat(), noise=Noise(0, torch.arange(6)), epoch=0, generator_seed=0
    )
    assert {"loss_robust", "loss_pairing", "train_clean_acc", "train_robust_acc"} <= measured.keys()
    assert all(not torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Unannotated(Loss):
    def __init__(self, *, num_classes: int, weight=1.0) -> None:  # type: ignore[no-untyped-def]
        super().__init__()


class Demanding(Loss):
    def __init__(self, *, num_classes: int, weight: float) -> None:
        super().__init__()
        self.weight = weight


def test_an_option_without_annotation_or_default_gets_one_line() -> None:
    for options in ({}, {"weight": 2}):
        with pytest.raises(UserError, match="its option weight has no annotation"):
            bind_options(Unannotated, options, what="loss mine", num_classes=4)
    with pytest.raises(UserError, match="loss mine needs a value for its option weight, which has no default"):
        bind_options(Demanding, {}, what="loss mine", num_classes=4)
    assert bind_options(Demanding, {"weight": "2"}, what="loss mine", num_classes=4).weight == 2


def test_a_slip_in_what_a_loss_reads_is_found_where_it_is_written() -> None:
    for reads in ("adv", ("adv", "cleen")):
        with pytest.raises(ValueError, match="outer_reads is a tuple of clean, adv, teacher_clean, teacher_adv; got"):
            type("Slip", (Loss,), {"outer_reads": reads})
