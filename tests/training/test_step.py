"""One whole training step against a plain float64 re-derivation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses import LOSSES, Logits, create_loss
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import Views

CLASSES = 4
EPS, ALPHA, BETA, LR, MU, DECAY, AWP = 8 / 255, 4.0, 20.0, 0.1, 0.9, 5e-4, 0.005
CONFIG: dict[str, Any] = {
    "attack": {"budget": "high-as-run"},
    "awp": {"gamma": AWP, "start_epoch": 1},
    "optimizer": {"lr": LR, "momentum": MU, "weight_decay": DECAY},
}


def softmax(logits: Tensor) -> Tensor:
    powers = (logits - logits.max(1, keepdim=True).values.detach()).exp()
    return powers / powers.sum(1, keepdim=True)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -softmax(logits)[torch.arange(len(labels)), labels].log().mean()


def trades(adv: Tensor, clean: Tensor, labels: Tensor, prior: Tensor, alpha: float, beta: float) -> Tensor:
    return beta * (softmax(clean) * (softmax(clean) / softmax(adv)).log()).sum(1).mean()


def gkl(adv: Tensor, clean: Tensor, labels: Tensor, prior: Tensor, alpha: float, beta: float) -> Tensor:
    weights = prior[labels]
    pairs = weights[:, :, None] * weights[:, None, :]
    gaps = (clean[:, :, None] - clean[:, None, :]) - (adv[:, :, None] - adv[:, None, :])
    soft = -(softmax(clean).detach() * softmax(adv).log()).sum(1).mean()
    return alpha * soft + beta * 0.25 * (pairs * gaps**2).sum() / pairs.sum()


def plain_step(
    model: nn.Module,
    velocity: list[Tensor],
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    divergence: Any,
    prior: Tensor,
) -> Tensor:
    """Attack, perturb the weights of a copy, update: everything spelt out; returns the clean logits."""
    model.eval()
    point = start
    for _ in range(5):
        point = point.detach().requires_grad_()
        inner = divergence(model(point), model(images), labels, prior, 1.0, 1.0)
        slope = torch.autograd.grad(inner, point)[0]
        point = (point.detach() + EPS / 2 * slope.sign()).clamp(images - EPS, images + EPS).clamp(0, 1)
    model.train()
    proxy = copy.deepcopy(model)

    def outer(network: nn.Module) -> tuple[Tensor, Tensor]:
        adv, clean = network(point), network(images)
        return cross_entropy(clean, labels) + divergence(adv, clean, labels, prior, ALPHA, BETA), clean

    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    weights = dict(model.named_parameters())
    ascent = torch.autograd.grad(outer(proxy)[0], [dict(proxy.named_parameters())[name] for name in names])
    moves = {n: AWP * weights[n].detach().norm() * g / g.norm() for n, g in zip(names, ascent, strict=True)}
    with torch.no_grad():
        for name, move in moves.items():
            weights[name].add_(move)
    loss, clean = outer(model)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for number, (parameter, slope) in enumerate(zip(model.parameters(), slopes, strict=True)):
            velocity[number] = MU * velocity[number] + slope + DECAY * parameter
            parameter.sub_(LR * velocity[number])
        for name, move in moves.items():
            weights[name].sub_(move)
    return clean.detach()


def fresh() -> Classifier:
    torch.manual_seed(0)
    return create_model("wrn-10-1", num_classes=CLASSES, input_shape=(3, 8, 8)).double()


def stepper_for(config: TrainConfig, model: nn.Module) -> Stepper:
    loss = create_loss(config.loss, num_classes=CLASSES, options=config.loss_options)
    return Stepper(config, model=model, loss=loss, optimizer=build_optimizer(config.optimizer, model))


@pytest.mark.parametrize("name", ["trades", "gkl"])
def test_three_steps_are_the_plain_ones(name: str) -> None:
    """The last of them in a second epoch, with the class prior of the first."""
    options = {"beta": BETA} if name == "trades" else {"alpha": ALPHA, "beta": BETA}
    config = TrainConfig.model_validate({**CONFIG, "loss": name, "loss_options": options})
    model, plain = fresh(), fresh()
    stepper = stepper_for(config, model)
    prior = torch.full((CLASSES, CLASSES), 1 / CLASSES, dtype=torch.float64)
    seen = torch.zeros_like(prior)
    velocity = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    generator = torch.Generator().manual_seed(5)
    for number in range(3):
        images = torch.rand(6, 3, 8, 8, dtype=torch.float64, generator=generator)
        labels = torch.tensor([0, 1, 2, 3, 0, 1])
        noise = Noise(3, torch.arange(6)).at("train", number)
        shift = 0.001 * noise.at("start").normal(3, 8, 8).double()
        start = (images + shift).clamp(images - EPS, images + EPS).clamp(0, 1)
        clean = plain_step(plain, velocity, images, labels, start, {"trades": trades, "gkl": gkl}[name], prior)
        seen += torch.eye(CLASSES, dtype=torch.float64)[labels].T @ softmax(clean / 4)
        if number == 1:
            prior = seen / seen.sum(1, keepdim=True)
        stepper.step(Views(images, labels), threat=config.threat.threat(), noise=noise, epoch=0, generator_seed=0)
        if number == 1:
            stepper.loss.end_epoch()
    initial = fresh().state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key], rtol=1e-7, atol=1e-10)
        if value.is_floating_point():
            assert not torch.equal(value, initial[key])


def test_awp_waits_for_its_epoch() -> None:
    images, labels = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    results = []
    for awp in ({}, {"gamma": 0.005, "start_epoch": 3}):
        for epoch in (1, 2):
            config = TrainConfig.model_validate({**CONFIG, "loss": "trades", "awp": awp})
            model = fresh()
            noise = Noise(3, torch.arange(6))
            stepper_for(config, model).step(
                Views(images, labels), threat=config.threat.threat(), noise=noise, epoch=epoch, generator_seed=0
            )
            results.append(model.state_dict()["conv1.weight"])
    without_early, without_late, early, late = results
    assert torch.equal(without_early, early)
    assert not torch.equal(without_late, late)


def test_clipping_bounds_the_update() -> None:
    images, labels = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    config = TrainConfig.model_validate(
        {"loss": "standard", "optimizer": {"lr": 1.0, "momentum": 0, "weight_decay": 0, "clip": 0.01}}
    )
    model, before = fresh(), fresh()
    measured = stepper_for(config, model).step(
        Views(images, labels), threat=config.threat.threat(), noise=Noise(3, torch.arange(6)), epoch=0, generator_seed=0
    )
    moved = sum(
        float((a - b).detach().square().sum()) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    assert float(measured["grad_norm"]) > 0.01
    assert math.sqrt(moved) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_loss_trains_in_every_precision(name: str, precision: str) -> None:
    config = TrainConfig.model_validate({**CONFIG, "loss": name, "precision": precision})
    torch.manual_seed(0)
    model = create_model("wrn-10-1", num_classes=CLASSES, input_shape=(3, 8, 8))
    teacher = create_model("wrn-10-1", num_classes=CLASSES, input_shape=(3, 8, 8)).eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    stepper = Stepper(
        config,
        model=model,
        loss=create_loss(name, num_classes=CLASSES),
        optimizer=build_optimizer(config.optimizer, model),
        teacher=teacher,
    )
    views = Views(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1]))
    measured = stepper.step(
        views, threat=config.threat.threat(), noise=Noise(3, torch.arange(6)), epoch=0, generator_seed=0
    )
    assert all(value.dtype == torch.float32 and bool(value.isfinite()) for value in measured.values())
    assert all(value.dtype == before[key].dtype for key, value in model.state_dict().items())
    assert not torch.equal(model.state_dict()["conv1.weight"], before["conv1.weight"])


def test_the_training_images_stay_in_the_ball_and_raise_the_inner_objective() -> None:
    config = TrainConfig.model_validate({**CONFIG, "loss": "trades"})
    model = fresh()
    images, labels = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    stepper = stepper_for(config, model)
    threat = config.threat.threat()
    adversarial = stepper.craft(Views(images, labels), threat=threat, noise=Noise(3, torch.arange(6)), epoch=0)
    assert bool(threat.contains(adversarial, images).all())
    model.eval()
    with torch.no_grad():
        value = stepper.loss.inner(Logits(clean=model(images), adv=model(adversarial)), labels)
        nearby = stepper.loss.inner(Logits(clean=model(images), adv=model(images + 0.001)), labels)
    assert bool((value > 10 * nearby).all())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["trades", "gkl"])
def test_a_step_is_the_same_on_every_device(name: str) -> None:
    config = TrainConfig.model_validate({**CONFIG, "loss": name, "loss_options": {"beta": BETA}})
    images, labels = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    results = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        model = fresh().to(device)
        stepper = stepper_for(config, model)
        stepper.loss.to(device)
        stepper.step(
            Views(images.to(device), labels.to(device)),
            threat=config.threat.threat(),
            noise=Noise(3, torch.arange(6, device=device)),
            epoch=0,
            generator_seed=0,
        )
        results.append({key: value.cpu() for key, value in model.state_dict().items()})
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-6, atol=1e-9)
