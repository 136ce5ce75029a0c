"""A small random net with images that it classifies, and its evaluation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gkl import ThreatModel
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.evaluation.engine import EngineSettings, measure

CHEAP = ("pgd:steps=5", "apgd-ce:steps=12,restarts=2", "apgd-t:steps=8,targets=2", "fab-t:steps=6", "square:queries=40")
THREAT = ThreatModel("linf", "6/255")


class SmallNet(nn.Module):
    """A small random convolutional net."""

    def __init__(self, *, classes: int = 5, channels: int = 1, size: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.features = nn.Conv2d(channels, 6, 3, stride=max(1, size // 8), padding=1)
            side = -(-size // max(1, size // 8))
            self.head = nn.Linear(6 * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.features(images - 0.5)).flatten(1))
        return 3 * logits


class TwoLayers(SmallNet):
    """A net with hidden neurons beyond the first layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.second = nn.Conv2d(6, 6, 3, stride=2, padding=1)
            self.head = nn.Linear(6 * 4 * 4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.second(torch.relu(self.features(images - 0.5)))).flatten(1))
        return 3 * logits


def labelled_images(n: int, *, channels: int = 1, size: int = 8, model: nn.Module) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % 5 if n > 7 else labels[::7]  # some are wrong without an attack
    return images, labels


def measured(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, attacks: Any, **options: Any
) -> Evaluation:
    """Evaluate with a journal and other ranks; ``options`` are those of ``measure`` and of the engine's settings."""
    names = {field.name for field in fields(EngineSettings)} & options.keys()
    settings = EngineSettings(**{name: options.pop(name) for name in names})
    return measure(model, images, labels, threat, attacks, settings, **options)


def evaluated(n: int = 60, *, attacks: tuple[str, ...] = CHEAP, batch_size: int = 16, **options: Any) -> Evaluation:
    model = SmallNet()
    images, labels = labelled_images(n, model=model)
    return measured(model, images, labels, THREAT, attacks, batch_size=batch_size, **options)
