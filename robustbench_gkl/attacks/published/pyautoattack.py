"""AutoAttack's members, run by pyautoattack as published."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.published.foreign import Contiguous, quiet_and_seeded
from robustbench_gkl.attacks.specs.pyautoattack import PyAutoAttack
from robustbench_gkl.core.exact import PUBLISHED_NORMS
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel


def propose(
    spec: PyAutoAttack, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise
) -> Tensor:
    """Return pyautoattack's images (B, C, H, W): the originals, unchanged, where it found nothing.

    Args:
        spec: the member of its ensemble.
        model: images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1], the originals.
        labels: (B,) int64.
        threat: gives norm and eps.
        noise: the samples' random numbers, of which only the seed is used.
    """
    from pyautoattack import AutoAttack

    device = images.device
    with torch.no_grad():
        num_classes = model(images[:1]).shape[1]
    with quiet_and_seeded(noise.at(spec.member), device) as seed:
        published = AutoAttack(
            Contiguous(model, device),
            norm=PUBLISHED_NORMS[threat.norm],
            eps=threat.radius,
            seed=seed,
            version=spec.version,
            device=device,
        )
        published.attacks_to_run = [spec.member]
        targets = spec.targets(threat, num_classes=num_classes)
        published.apgd_targeted.n_target_classes = targets
        published.fab.n_target_classes = targets
        if spec.needs_margin(num_classes):
            _use_margin(published)
        candidates, _ = published.run_standard_evaluation(images.contiguous(), labels, batch_size=images.shape[0])
    return torch.as_tensor(candidates)


def _use_margin(published: Any) -> None:
    """Replace the DLR losses by the margins that they normalise, which exist for two classes."""
    targeted = published.apgd_targeted

    def to_target(logits: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(len(labels), device=labels.device)
        return logits[rows, targeted.y_target] - logits[rows, labels]

    def to_runner_up(logits: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(len(labels), device=labels.device)
        others = logits.scatter(1, labels[:, None], -math.inf)
        return others.amax(1) - logits[rows, labels]

    targeted.dlr_loss_targeted = to_target
    published.apgd.dlr_loss = to_runner_up
