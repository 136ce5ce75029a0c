"""Models under attack: eval mode, full-precision logits, gradients at the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
"""Anything that maps images (B, C, H, W) in [0, 1] to logits (B, K)."""

_LAYERS = {"torch", "torchvision", "timm", __name__.partition(".")[0]}
"""Packages whose layers are known."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode and stop its parameters from collecting gradients, for the time of the block."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def is_layers_alone(model: Model) -> bool:
    """Return whether ``model`` consists of layers of torch, its kin and this package, as they come, without hooks.

    Such a model does what its parameters and buffers say; code from elsewhere may do anything beside it.
    """
    return isinstance(model, nn.Module) and all(_is_known(module) for module in model.modules())


def _is_known(module: nn.Module) -> bool:
    own = vars(module)
    package = type(module).__module__.partition(".")[0]
    return package in _LAYERS and "forward" not in own and not any(own[name] for name in _HOOKS)


def full_logits(logits: Tensor) -> Tensor:
    """Return ``logits`` (B, K) in float32 if they are in half precision, else unchanged, (B, K)."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def input_gradient(model: Model, images: Tensor, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the gradient (B, C, H, W) of each sample's objective at ``images``; one forward and one backward pass.

    Args:
        model: images to logits (B, K).
        images: (B, C, H, W).
        objective: the images, with a graph, and their :func:`full_logits` to one value per sample, (B,).
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        value = objective(images, full_logits(model(images))).sum()
    (gradient,) = torch.autograd.grad(value, images)
    return gradient
