"""The training attack."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import attack_mode, full_logits
from robustbench_gkl.attacks.pgd import ascend
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.training.folding import FoldedModel

Inner = Callable[[Tensor, Tensor], Tensor]
"""From adversarial and clean logits (B, K) to what is maximised, (B,)."""


def inner_start(images: Tensor, threat: ThreatModel, noise: Noise, *, start: str) -> Tensor:
    """Return where the training attack begins: ``gaussian``, ``uniform`` or ``none`` (the images themselves)."""
    if start == "gaussian":
        nearby = images + 0.001 * noise.normal(*images.shape[1:])
        return threat.project(nearby, images)
    return threat.random_start(images, noise) if start == "uniform" else images


def craft(
    model: nn.Module,
    images: Tensor,
    *,
    inner: Inner,
    needs_clean: bool,
    threat: ThreatModel,
    start: Tensor,
    steps: int,
    step_size: float,
    folded: FoldedModel | None = None,
    autocast: Callable[[], torch.autocast] | None = None,
) -> Tensor:
    """Return the training images (B, C, H, W) that maximise ``inner``.

    Runs in eval mode and without parameter gradients; the clean logits, where needed, are computed once. Costs
    ``steps`` forward and backward passes, and one forward pass for the clean logits. Logits keep the precision of the
    network, but for half precision, which becomes float32.

    Args:
        model: the network that is trained.
        images: (B, C, H, W) in [0, 1].
        inner: see :data:`Inner`; the clean logits it gets have no graph.
        needs_clean: whether ``inner`` reads the clean logits; without, it is given an empty tensor.
        threat: what is allowed.
        start: the first point, (B, C, H, W).
        steps, step_size: of the ascent.
        folded: a twin of ``model`` that is cheaper to evaluate.
        autocast: gives the context in which the network is evaluated.
    """

    def network(points: Tensor) -> Tensor:
        with torch.autocast(points.device.type, enabled=False) if autocast is None else autocast():
            return full_logits(model(points) if folded is None else folded(points))

    with attack_mode(model):
        if folded is not None:
            folded.refresh()
        clean_logits = images.new_empty(0)
        if needs_clean:
            with torch.no_grad():
                clean_logits = network(images)
        return ascend(
            network,
            images,
            threat,
            objective=lambda logits: inner(logits, clean_logits),
            start=start,
            steps=steps,
            step_size=step_size,
        )
