"""Steps of distillation against a plain float64 re-derivation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import create_model
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import Views

CLASSES, BATCH, PER_EPOCH, STEPS = 4, 6, 3, 10
LR, MU, DECAY = 0.05, 0.9, 5e-4
ALPHA, BETA, GAMMA, T, T2, WARMUP = 3.0, 16.0, 0.3, 4.0, 2.0, 3


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, num_classes=CLASSES, input_shape=(3, 8, 8)).double()


def softmax(logits: Tensor) -> Tensor:
    powers = (logits - logits.max(1, keepdim=True).values.detach()).exp()
    return powers / powers.sum(1, keepdim=True)


def plain_loss(student: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor, epoch: int) -> Tensor:
    """CE + min(epoch / warmup, 1) (alpha sCE + beta wMSE) over all pairs of classes; epochs from 1."""
    ce = -softmax(student)[torch.arange(len(labels)), labels].log().mean()
    soft = -(softmax(teacher / T) * softmax(student / T).log()).sum(1).mean()
    smoothed = weights**GAMMA
    pairs = smoothed[:, :, None] * smoothed[:, None, :]
    gaps = (teacher[:, :, None] - teacher[:, None, :]) - (student[:, :, None] - student[:, None, :])
    wmse = 0.25 * (pairs * gaps**2).sum() / pairs.sum()
    return ce + min(epoch / WARMUP, 1.0) * (ALPHA * soft + BETA * wmse)


@pytest.mark.parametrize("kind", ["class", "sample"])
def test_ten_steps_of_gkl_kd_are_the_plain_ones(kind: str) -> None:
    """In four epochs: the warm-up ends within them, and each has the prior of the one before."""
    options = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA, "weights": kind}
    options |= {"temperature": T, "prior_temperature": T2, "warmup": WARMUP}
    sgd = {"lr": LR, "momentum": MU, "weight_decay": DECAY}
    config = TrainConfig.model_validate({"loss": "gkl-kd", "loss_options": options, "optimizer": sgd})
    model, plain = network("resnet8", 0), network("resnet8", 0).train()
    teacher = network("wrn-10-1", 1).eval().requires_grad_(False)
    loss = create_loss("gkl-kd", num_classes=CLASSES, options=config.loss_options)
    stepper = Stepper(
        config, model=model, loss=loss, optimizer=build_optimizer(config.optimizer, model, loss), teacher=teacher
    )
    prior = torch.full((CLASSES, CLASSES), 1 / CLASSES, dtype=torch.float64)
    seen = torch.zeros_like(prior)
    velocity = [torch.zeros_like(parameter) for parameter in plain.parameters()]
    generator = torch.Generator().manual_seed(5)
    for number in range(STEPS):
        epoch, first = divmod(number, PER_EPOCH)
        if not first:
            if epoch:
                loss.end_epoch()
                prior, seen = seen / seen.sum(1, keepdim=True), torch.zeros_like(prior)
            loss.start_epoch(epoch)
        images = torch.rand(BATCH, 3, 8, 8, dtype=torch.float64, generator=generator)
        labels = (torch.arange(BATCH) + number) % CLASSES
        stepper.step(
            Views(images, labels),
            threat=config.threat.threat(),
            noise=Noise(3, torch.arange(BATCH)),
            epoch=epoch,
            generator_seed=0,
        )
        taught = teacher(images)
        predicted = softmax(taught / T2)
        weights = prior[labels] if kind == "class" else predicted
        seen += torch.eye(CLASSES, dtype=torch.float64)[labels].T @ predicted
        slopes = torch.autograd.grad(
            plain_loss(plain(images), taught, labels, weights, epoch + 1), list(plain.parameters())
        )
        with torch.no_grad():
            for index, (parameter, slope) in enumerate(zip(plain.parameters(), slopes, strict=True)):
                velocity[index] = MU * velocity[index] + slope + DECAY * parameter
                parameter.sub_(LR * velocity[index])
    initial = network("resnet8", 0).state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key], rtol=1e-9, atol=1e-11)
        assert not torch.equal(value, initial[key])
