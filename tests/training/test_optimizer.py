from __future__ import annotations

import pytest
import torch

from robustbench_gkl.config.schema import OptimizerConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated
from robustbench_gkl.models import create_model
from robustbench_gkl.training.optimizer import build_optimizer, set_rates


def test_batch_norm_is_left_undecayed_where_asked_for() -> None:
    model = create_model("wrn-10-1-swish", num_classes=4, input_shape=(3, 8, 8))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(OptimizerConfig(lr=0.5, momentum=0.0, weight_decay=0.1, decay_batchnorm=False), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        factor = 1.0 if "batchnorm" in name else 1 - 0.5 * 0.1
        torch.testing.assert_close(value.detach(), factor * before[name])


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
    config = OptimizerConfig.model_validate({"name": name, "decay_batchnorm": False})
    optimizer = build_optimizer(config, model)
    set_rates(optimizer, lr=0.123, momentum=0.8)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.123
        assert group.get("momentum", group.get("betas", [0])[0]) == 0.8


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UserError, match="nesterov needs"):
        validated(OptimizerConfig, {"nesterov": True, "momentum": 0}, what="optimizer")
