"""Models under attack: eval mode, full-precision logits, gradients at the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
"""Anything that maps images (B, C, H, W) in [0, 1] to logits (B, K)."""

_KNOWN = (
    "torch.nn.modules.",
    "torch.nn.functional",
    "torch.nn.utils.parametri",  # parametrize, and parametrizations such as weight and spectral norm
    "torchvision.models.",
    "torchvision.ops.",
    "timm.layers.",
    "timm.models.",
    __name__.partition(".")[0] + ".",
)
"""How the names of modules begin that define layers. The transforms of torchvision draw random numbers, and what
torch.fx, torch.jit and torch.compile make may do anything."""
_DRAWING = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
"""Layers that draw random numbers in eval mode too."""
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

    Such a model does in eval mode what its parameters and buffers say; code from elsewhere may do anything beside it.
    """
    if not isinstance(model, nn.Module) or any(getattr(nn.modules.module, f"_global{name}") for name in _HOOKS):
        return False
    tensors = (*model.parameters(), *model.buffers())
    return all(type(values) in (Tensor, nn.Parameter) for values in tensors) and all(map(_is_known, model.modules()))


def _is_known(module: nn.Module) -> bool:
    """Return whether a layer runs known code alone: its class's, which torch may have parametrized, and none put in."""
    kind = type(module)
    if any(getattr(module, name) for name in (*_HOOKS, "_compiled_call_impl")) or isinstance(module, _DRAWING):
        return False
    classes = (base for base in kind.__mro__ if issubclass(base, nn.Module))
    code: tuple[object, ...] = (*classes, kind.forward, *filter(callable, vars(module).values()))
    return all(str(getattr(part, "__module__", None)).startswith(_KNOWN) for part in code)


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
