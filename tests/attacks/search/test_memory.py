"""What an attack holds beyond the model's own is a few batches of images, its first random numbers included."""

from __future__ import annotations

import pytest
import torch
from peak_memory import peak_memory

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.models import create_model

CASES = ("pgd:steps=2", "apgd-ce:steps=8,restarts=1", "apgd-t:steps=4,targets=1", "fab-t:steps=2")


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1e-4), ("l2", 1e-3), ("l1", 1e-2)])
def test_peak_memory(norm: str, eps: float) -> None:
    images = torch.rand(192, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = create_model("cnn-a", num_classes=10)
    with attack_mode(model):
        labels = model(images).argmax(1)

        def gradient() -> None:
            leaf = images.clone().requires_grad_()
            torch.autograd.grad(model(leaf).sum(), leaf)

        own = peak_memory(gradient)
        for spec in CASES:
            attack, noise = parse_attack(spec), Noise(0, torch.arange(192))

            def call(attack: object = attack, noise: Noise = noise) -> None:
                assert callable(attack)
                attack(model, images, labels, ThreatModel(norm, eps), noise=noise)

            assert peak_memory(call) - own <= 8 * images.numel() * 4, spec
