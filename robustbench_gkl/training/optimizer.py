"""The optimiser that a configuration describes."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from robustbench_gkl.config.schema import OptimizerConfig


class _Eager(torch.optim.Optimizer):
    """An optimiser that is never compiled.

    Torch wraps these methods to keep the compiler out of them; the wrappers import it, which costs as much as half of
    torch. What they wrap is the same.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class _AdamW(_Eager, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class _SGD(_Eager, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def build_optimizer(config: OptimizerConfig, *modules: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of all parameters of ``modules``, those without weight decay in a group of their own.

    On CUDA the whole update is one fused kernel a dtype, elsewhere one call a kind of operation.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    exempt = [weight for module in modules for weight in _undecayed(module, config.no_decay)]
    known = {id(parameter) for parameter in exempt}
    groups = [{"params": [parameter for parameter in parameters if id(parameter) not in known]}]
    if exempt:
        groups.append({"params": exempt, "weight_decay": 0.0})  # type: ignore[dict-item]
    fused = all(parameter.is_cuda for parameter in parameters)
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": fused, "foreach": not fused}
    if config.name == "adamw":
        return _AdamW(groups, betas=(config.momentum, 0.999), **common)  # type: ignore[arg-type]
    return _SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **common)  # type: ignore[arg-type]


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, momentum: float) -> None:
    """Set learning rate and momentum of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _undecayed(module: nn.Module, no_decay: str) -> list[nn.Parameter]:
    """Return the parameters that ``no_decay`` names, see :class:`OptimizerConfig`."""
    if no_decay == "none":
        return []
    kinds = (_BatchNorm,) if no_decay == "batchnorm" else (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    named = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    if no_decay == "norms-and-biases":
        flat = [p for name, p in module.named_parameters() if p.dim() <= 1 or name.rpartition(".")[2] == "bias"]
        named |= {id(parameter) for parameter in flat}
    return [parameter for parameter in module.parameters() if id(parameter) in named]
