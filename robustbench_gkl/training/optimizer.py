"""The optimiser that a configuration describes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_gkl.config.schema import OptimizerConfig


def build_optimizer(config: OptimizerConfig, *modules: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of all parameters of ``modules``, those without weight decay in a group of their own.

    On CUDA the whole update is one fused kernel a dtype, elsewhere one call a kind of operation.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    exempt = [] if config.decay_batchnorm else [weight for each in modules for weight in _batchnorm_parameters(each)]
    known = {id(parameter) for parameter in exempt}
    groups = [{"params": [parameter for parameter in parameters if id(parameter) not in known]}]
    if exempt:
        groups.append({"params": exempt, "weight_decay": 0.0})  # type: ignore[dict-item]
    fused = all(parameter.is_cuda for parameter in parameters)
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": fused, "foreach": not fused}
    if config.name == "adamw":
        return torch.optim.AdamW(groups, betas=(config.momentum, 0.999), **common)  # type: ignore[arg-type]
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **common)  # type: ignore[arg-type]


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, momentum: float) -> None:
    """Set learning rate and momentum of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def _batchnorm_parameters(model: nn.Module) -> list[nn.Parameter]:
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
