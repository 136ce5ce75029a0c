"""What one image costs on this machine: forward passes, passes of an attack and updates, timed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.device import TensorCores
from robustbench_gkl.core.timing import time_calls, time_once
from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.facts import FACTS
from robustbench_gkl.models import Classifier, create_model

_LONG = 1.0
"""Seconds that a pass of the batch may take; larger batches are not tried."""
_SECONDS = 0.3
"""For which each kind of pass is timed."""


@dataclass(frozen=True)
class Measured:
    """Seconds for one image: a forward pass, one with the gradient to the image, one with that to the weights."""

    forward: float
    attack: float
    update: float
    batch_size: int


def time_passes(config: TrainConfig, device: torch.device) -> Measured:
    """Time the model of a recipe in batches of the recipe's size, or smaller ones where a pass takes over a second.

    Args:
        config: names model, data set, batch size and precision.
        device: where to run.
    """
    model = _model(config).to(device).to(memory_format=torch.channels_last)
    with TensorCores(allowed=config.precision != "float32"):
        size = 1
        while size < config.batch_size and time_once(partial(_update, model, config, size), device) < _LONG:
            size = min(4 * size, config.batch_size)
        forward, attack, update = (
            min(time_calls(partial(one, model, config, size), device, seconds=_SECONDS, fewest=2)) / size
            for one in (_forward, _attack, _update)
        )
    return Measured(forward, attack, update, size)


def _model(config: TrainConfig) -> Classifier:
    known = FACTS.get(config.dataset) or load_dataset(config.dataset).load("test")
    classes, shape = len(known.classes), known.shape
    return create_model(config.model, num_classes=classes, input_shape=shape, mean=config.mean, std=config.std)


def _images(model: Classifier, size: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.rand(size, *model.input_shape, device=device).contiguous(memory_format=torch.channels_last)


def _logits(model: Classifier, config: TrainConfig, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        logits: Tensor = model(images)
    return logits.float()


def _forward(model: Classifier, config: TrainConfig, size: int) -> None:
    with attack_mode(model), torch.no_grad():
        _logits(model, config, _images(model, size))


def _attack(model: Classifier, config: TrainConfig, size: int) -> None:
    with attack_mode(model):
        images = _images(model, size).requires_grad_()
        torch.autograd.grad(_logits(model, config, images).logsumexp(1).sum(), images)


def _update(model: Classifier, config: TrainConfig, size: int) -> None:
    model.train()
    loss = _logits(model, config, _images(model, size)).logsumexp(1).sum()
    torch.autograd.grad(loss, [parameter for parameter in model.parameters() if parameter.requires_grad])
