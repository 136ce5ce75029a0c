"""Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020, arXiv 2004.05884).

Each step is taken from weights that were first moved to where the loss on the batch is larger:

    v = gamma ||w|| g / ||g||,   g = gradient of the loss at w,   for each weight w of more than one dimension,

and v is subtracted again after the update. The published code computes g on a second model that the weights are
copied to; here it is one call of ``torch.autograd.grad`` on the model itself, in training mode, during which batch
normalisation uses the batch's statistics and does not record them, just as a second model would leave them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_gkl.ranks.collectives import ALONE, World
from robustbench_gkl.ranks.gradients import summed_gradients

_TINY = 1e-20


def perturbed_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that are perturbed: all but scales, shifts and biases, which have one dimension."""
    return [parameter for parameter in model.parameters() if parameter.dim() > 1 and parameter.requires_grad]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation in training mode use the batch's statistics in the block and record nothing."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def weight_perturbation(
    model: nn.Module, loss: Callable[[], Tensor], *, gamma: float, world: World = ALONE
) -> list[Tensor]:
    """Return by how much each of :func:`perturbed_weights` is to be moved; costs one forward and backward pass.

    Each change has the shape of its weight. A weight that the loss does not depend on stays where it is.

    Args:
        model: in the mode in which it is trained.
        loss: computes the scalar to be raised, with ``model``.
        gamma: length of the perturbation relative to the norm of each weight.
        world: the processes over which the gradient is summed, so that all move alike.
    """
    weights = perturbed_weights(model)
    with frozen_statistics(model):
        summed = summed_gradients(loss(), weights, world)
    with torch.no_grad():
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, summed, strict=True)]
        lengths = torch._foreach_norm(list(weights))
        slopes = torch._foreach_norm(gradients)
        scales = [gamma * length / (slope + _TINY) for length, slope in zip(lengths, slopes, strict=True)]
        return [gradient * scale for gradient, scale in zip(gradients, scales, strict=True)]


@contextmanager
def perturbed(weights: Sequence[nn.Parameter], perturbation: Sequence[Tensor]) -> Iterator[None]:
    """Add ``perturbation`` to ``weights`` in the block and subtract it at the end, whatever happens inside."""
    targets = [weight.detach() for weight in weights]
    torch._foreach_add_(targets, list(perturbation))
    try:
        yield
    finally:
        torch._foreach_sub_(targets, list(perturbation))
