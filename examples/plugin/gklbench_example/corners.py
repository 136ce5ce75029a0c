"""The search of the attack, imported when it runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gklbench_example.attack import Corners
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel


@torch.no_grad()
def propose(
    spec: Corners,
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    noise: Noise,
) -> Tensor:
    """Return for each sample the first corner that is misclassified, else the last one, (B, C, H, W).

    Args:
        spec: the options.
        model: images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: (B,) int64.
        threat: the ball; the engine checks it again.
        noise: the samples' random numbers, the same in every batch.
    """
    found, fell = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    for number in range(spec.tries):
        signs = noise.at("corner", number).signs(*images.shape[1:])
        corners = threat.project(images + threat.radius * signs, images)
        found[~fell] = corners[~fell]
        fell |= model(corners).argmax(1) != labels
    return found
