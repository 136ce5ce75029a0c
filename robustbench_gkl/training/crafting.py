"""Where the training attack starts, and the network as it sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import Model, attack_mode, full_logits
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.training.folding import FoldedModel


def inner_start(images: Tensor, threat: ThreatModel, noise: Noise, *, start: str) -> Tensor:
    """Return where the training attack on ``images`` (B, C, H, W) begins, in their shape.

    ``start`` is ``gaussian``, ``uniform`` or ``none`` (the images themselves).
    """
    if start == "gaussian":
        nearby = images + 0.001 * noise.normal(*images.shape[1:])
        return threat.project(nearby, images)
    return threat.random_start(images, noise) if start == "uniform" else images


@contextmanager
def as_attacked(model: nn.Module, *, folded: FoldedModel, autocast: Callable[[], torch.autocast]) -> Iterator[Model]:
    """Yield the network that the training attack evaluates: in eval mode, without gradients of its parameters.

    Logits keep the precision of the network, but for half precision, which becomes float32.

    Args:
        model: the network that is trained; its modes are restored after the block.
        folded: its twin, which is evaluated.
        autocast: gives the context of one pass, entered anew for each.
    """

    def network(points: Tensor) -> Tensor:
        with autocast():
            return full_logits(folded(points))

    with attack_mode(model):
        folded.refresh()
        yield network
