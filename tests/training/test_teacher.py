"""Losses that read a teacher, and losses with parameters of their own, through the step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses.base import Kind, Logits, Loss, Member, kl_divergence
from robustbench_gkl.models import create_model
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import Views

CONFIG = TrainConfig.model_validate(
    {"attack": {"steps": 3, "start": "uniform"}, "optimizer": {"lr": 0.1, "momentum": 0, "weight_decay": 0}}
)
THREAT = CONFIG.threat.threat()


class Adaptive(Loss):
    """KL(T(x') || S(x')) inside and outside, and KL(T(x) || S(x)) outside: all logits that there are but one."""

    inner_reads: ClassVar[tuple[Member, ...]] = ("adv", "teacher_adv")
    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "adv", "teacher_clean", "teacher_adv")
    kinds: ClassVar[Mapping[str, Kind]] = {"clean": "clean", "robust": "robust"}

    def inner(self, logits: Logits, labels: Tensor) -> Tensor:
        assert set(logits.present()) == set(self.inner_reads)
        return kl_divergence(logits.teacher_adv, logits.adv)

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        assert set(logits.present()) == set(self.outer_reads)
        assert not logits.teacher_clean.requires_grad
        assert not logits.teacher_adv.requires_grad
        return {
            "clean": kl_divergence(logits.teacher_clean, logits.clean).mean(),
            "robust": kl_divergence(logits.teacher_adv, logits.adv).mean(),
        }


class Plain(Loss):
    """KL(T(x) || S(x)), scaled by a temperature that is learned; nothing is crafted."""

    outer_reads: ClassVar[tuple[Member, ...]] = ("clean", "teacher_clean")
    kinds: ClassVar[Mapping[str, Kind]] = {"clean": "clean"}

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.register_buffer("idle", torch.tensor(16777217))

    def terms(self, logits: Logits, labels: Tensor) -> dict[str, Tensor]:
        return {"clean": kl_divergence(logits.teacher_clean / self.temperature, logits.clean / self.temperature).mean()}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("tiny-cnn", num_classes=4, input_shape=(1, 8, 8)).double()


def batch() -> tuple[Views, Noise]:
    torch.manual_seed(3)
    return Views(torch.rand(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 4), Noise(3, torch.arange(6))


class Counted:
    """A teacher that counts the images it is asked about, with and without a graph."""

    def __init__(self) -> None:
        self.network = network(1).eval().requires_grad_(False)
        self.plain = self.graphs = 0

    def __call__(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.graphs += len(images)
        else:
            self.plain += len(images)
        logits: Tensor = self.network(images)
        return logits


def stepped(loss: Loss, model: nn.Module, *, config: TrainConfig = CONFIG, steps: int = 1) -> tuple[Stepper, Counted]:
    teacher = Counted()
    optimizer = build_optimizer(config.optimizer, model, loss)
    stepper = Stepper(config, model=model, loss=loss, optimizer=optimizer, teacher=teacher)
    views, noise = batch()
    for number in range(steps):
        stepper.step(views, threat=THREAT, noise=noise.at(number), epoch=0, generator_seed=0)
    return stepper, teacher


def test_a_step_with_a_teacher_is_the_plain_one() -> None:
    model, plain = network(0), network(0)
    _, teacher = stepped(Adaptive(), model)
    views, noise = batch()
    images, point = views.images, THREAT.random_start(views.images, noise.at(0).at("start"))
    for _ in range(3):
        point = point.detach().requires_grad_()
        p, q = teacher.network(point).softmax(1), plain(point).softmax(1)
        slope = torch.autograd.grad((p * (p / q).log()).sum(), point)[0]
        point = (point + 2.5 * 8 / 255 / 3 * slope.sign()).clamp(images - 8 / 255, images + 8 / 255).clamp(0, 1)
    total = torch.zeros((), dtype=torch.float64)
    for where in (images, point.detach()):
        p, q = teacher.network(where).softmax(1), plain(where).softmax(1)
        total = total + (p * (p / q).log()).sum(1).mean()
    slopes = torch.autograd.grad(total, list(plain.parameters()))
    for found, before, slope in zip(model.parameters(), plain.parameters(), slopes, strict=True):
        torch.testing.assert_close(found.detach(), before.detach() - 0.1 * slope, rtol=1e-9, atol=1e-12)


def test_the_teacher_is_asked_once_for_what_is_read() -> None:
    awp = CONFIG.model_copy(update={"awp": CONFIG.awp.model_copy(update={"gamma": 0.01, "start_epoch": 1})})
    _, adaptive = stepped(Adaptive(), network(0), config=awp)
    assert (adaptive.plain, adaptive.graphs) == (2 * 6, 3 * 6)
    _, plain = stepped(Plain(), network(0), config=awp)
    assert (plain.plain, plain.graphs) == (6, 0)


def test_the_agreement_with_the_teacher_is_measured() -> None:
    model, loss = network(0), Plain()
    teacher, (views, noise) = Counted(), batch()
    stepper = Stepper(
        CONFIG, model=model, loss=loss, optimizer=build_optimizer(CONFIG.optimizer, model, loss), teacher=teacher
    )
    said = teacher.network(views.images).argmax(1)
    same, right = ((said == other).double().mean() for other in (model(views.images).argmax(1), views.labels))
    measured = stepper.step(views, threat=THREAT, noise=noise, epoch=0, generator_seed=0)
    assert float(measured["train_agreement"]) == pytest.approx(100 * float(same))
    assert float(measured["train_teacher_acc"]) == pytest.approx(100 * float(right))
    assert float(same) not in (0, 1)


def test_a_parameter_of_the_loss_is_trained_with_the_weights() -> None:
    model, loss = network(0), Plain()
    before = copy.deepcopy(loss.state_dict())
    plain = network(0)
    stepped(loss, model)
    views, _ = batch()
    logits = Logits(clean=plain(views.images), teacher_clean=Counted()(views.images))
    reference = Plain()
    (slope,) = torch.autograd.grad(reference.outer(logits, views.labels), reference.temperature)
    torch.testing.assert_close(loss.temperature.detach(), before["temperature"] - 0.1 * slope, rtol=1e-9, atol=0)
    assert abs(float(slope)) > 0


def test_training_goes_on_exactly_from_the_saved_states() -> None:
    config = CONFIG.model_copy(update={"optimizer": CONFIG.optimizer.model_copy(update={"momentum": 0.9, "clip": 0.1})})
    model, loss = network(0), Plain()
    whole, teacher = stepped(loss, model, config=config, steps=2)
    saved = copy.deepcopy([whole.model.state_dict(), whole.loss.state_dict(), whole.optimizer.state_dict()])
    again_model, again_loss = network(5), Plain()
    optimizer = build_optimizer(config.optimizer, again_model, again_loss)
    again = Stepper(config, model=again_model, loss=again_loss, optimizer=optimizer, teacher=teacher)
    again_model.load_state_dict(saved[0])
    again_loss.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    views, noise = batch()
    for stepper in (whole, again):
        stepper.step(views, threat=THREAT, noise=noise.at(2), epoch=0, generator_seed=0)
    assert torch.equal(again_loss.temperature, loss.temperature)
    assert all(torch.equal(a, b) for a, b in zip(again_model.parameters(), model.parameters(), strict=True))


def test_a_term_without_a_kind_is_refused_in_one_line() -> None:
    class Undeclared(Plain):
        kinds: ClassVar[Mapping[str, Kind]] = {}

    with pytest.raises(UserError, match="Undeclared declares no kind of its term clean; put it into the class's kinds"):
        stepped(Undeclared(), network(0))
