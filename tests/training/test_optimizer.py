from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_gkl.config.schema import OptimizerConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated
from robustbench_gkl.models import create_model
from robustbench_gkl.training.optimizer import build_optimizer, set_rates


def test_batch_norm_is_left_undecayed_where_asked_for() -> None:
    model = create_model("wrn-10-1-swish", num_classes=4, input_shape=(3, 8, 8))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(OptimizerConfig(lr=0.5, momentum=0.0, weight_decay=0.1, no_decay="batchnorm"), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        factor = 1.0 if "batchnorm" in name else 1 - 0.5 * 0.1
        torch.testing.assert_close(value.detach(), factor * before[name])


class Parts(nn.Module):
    """One parameter of each sort that networks have; those under ``decayed`` are weights."""

    def __init__(self) -> None:
        super().__init__()
        self.decayed = nn.ModuleList([nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2, bias=False)])
        self.position = nn.Parameter(torch.ones(1, 3, 4))
        self.with_bias = nn.Linear(4, 2)
        self.norms = nn.ModuleList([nn.LayerNorm((4, 2)), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)])
        self.batchnorm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    ("no_decay", "exempt"),
    [
        ("none", ()),
        ("batchnorm", ("batchnorm.",)),
        ("norms-and-biases", ("batchnorm.", "norms.", "with_bias.bias", "scale")),
    ],
)
def test_weight_decay_leaves_alone_what_it_is_told_to(no_decay: str, exempt: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model, loss = Parts(), nn.Linear(2, 2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    values = {"name": "adamw", "lr": 0.5, "weight_decay": 0.1, "no_decay": no_decay}
    optimizer = build_optimizer(validated(OptimizerConfig, values, what="optimizer"), model, loss)
    for parameter in (*model.parameters(), *loss.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        factor = 1.0 if name.startswith(exempt) and exempt else 1 - 0.5 * 0.1
        torch.testing.assert_close(value.detach(), factor * before[name], msg=name.__add__)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before) + 2


def test_the_former_key_is_read() -> None:
    for flag, expected in ((True, "none"), (False, "batchnorm"), ("false", "batchnorm")):
        assert validated(OptimizerConfig, {"decay_batchnorm": flag}, what="optimizer").no_decay == expected
    with pytest.raises(UserError, match="former name of no_decay; give no_decay alone"):
        validated(OptimizerConfig, {"decay_batchnorm": True, "no_decay": "none"}, what="optimizer")
    with pytest.raises(UserError, match="decay_batchnorm"):
        validated(OptimizerConfig, {"decay_batchnorm": "seldom"}, what="optimizer")


def test_all_is_decayed_by_default() -> None:
    model = create_model("wrn-10-1", num_classes=4, input_shape=(3, 8, 8))
    optimizer = build_optimizer(OptimizerConfig(), model)
    assert len(optimizer.param_groups) == 1
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_sgd_steps_are_the_textbooks(nesterov: bool) -> None:
    model = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64)
    lr, mu, decay = 0.3, 0.9, 0.01
    optimizer = build_optimizer(OptimizerConfig(lr=lr, momentum=mu, weight_decay=decay, nesterov=nesterov), model)
    weight = model.weight.detach().clone()
    velocity = torch.zeros_like(weight)
    for number in range(1, 3):
        slope = torch.full_like(weight, 0.1 * number)
        model.weight.grad = slope.clone()
        optimizer.step()
        slope = slope + decay * weight
        velocity = slope if number == 1 else mu * velocity + slope
        weight = weight - lr * (slope + mu * velocity if nesterov else velocity)
        torch.testing.assert_close(model.weight.detach(), weight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rates_reach_every_group(name: str) -> None:
    model = create_model("wrn-10-1", num_classes=4, input_shape=(3, 8, 8))
    config = OptimizerConfig.model_validate({"name": name, "no_decay": "batchnorm"})
    optimizer = build_optimizer(config, model)
    set_rates(optimizer, lr=0.123, momentum=0.8)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.123
        assert group.get("momentum", group.get("betas", [0])[0]) == 0.8


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UserError, match="nesterov needs"):
        validated(OptimizerConfig, {"nesterov": True, "momentum": 0}, what="optimizer")
