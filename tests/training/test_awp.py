from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.training.awp import frozen_statistics, perturbed, perturbed_weights, weight_perturbation

GAMMA = 0.005


def small() -> Classifier:
    torch.manual_seed(1)
    return create_model("wrn-10-1", num_classes=4, input_shape=(3, 8, 8)).double().train()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])


def proxy_perturbation(model: Classifier, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The published way: an ascent step of SGD on a copy, rescaled layer by layer."""
    proxy = copy.deepcopy(model)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-F.cross_entropy(proxy(images), labels)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    old, new = model.state_dict(), proxy.state_dict()
    changes = {}
    for name, weight in old.items():
        if weight.dim() > 1 and "weight" in name:
            difference = new[name] - weight
            changes[name] = GAMMA * weight.norm() / (difference.norm() + 1e-20) * difference
    return changes


def test_the_perturbation_is_the_published_one() -> None:
    model, (images, labels) = small(), batch()
    expected = proxy_perturbation(model, images, labels)
    got = weight_perturbation(model, lambda: F.cross_entropy(model(images), labels), gamma=GAMMA)
    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    assert list(expected) == names
    for name, change in zip(names, got, strict=True):
        torch.testing.assert_close(change, expected[name], rtol=1e-9, atol=1e-14)


def test_it_raises_the_loss_and_has_the_length_asked_for() -> None:
    model, (images, labels) = small(), batch()
    before = F.cross_entropy(model(images), labels).item()
    changes = weight_perturbation(model, lambda: F.cross_entropy(model(images), labels), gamma=GAMMA)
    for weight, change in zip(perturbed_weights(model), changes, strict=True):
        torch.testing.assert_close(change.norm(), GAMMA * weight.detach().norm())
    with perturbed(perturbed_weights(model), changes):
        assert F.cross_entropy(model(images), labels).item() > before


def test_the_ascent_leaves_gradients_statistics_and_weights_alone() -> None:
    model, (images, labels) = small(), batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weight_perturbation(model, lambda: F.cross_entropy(model(images), labels), gamma=GAMMA)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model(images)
    assert not torch.equal(model.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


def test_an_unused_weight_stays_where_it_is() -> None:
    """Such as an auxiliary head that is left out of the forward pass."""
    model, (images, labels) = small(), batch()
    expected = weight_perturbation(model, lambda: F.cross_entropy(model(images), labels), gamma=GAMMA)
    model.auxiliary = nn.Linear(3, 2).double()
    *changes, unused = weight_perturbation(model, lambda: F.cross_entropy(model(images), labels), gamma=GAMMA)
    assert all(torch.equal(a, b) for a, b in zip(changes, expected, strict=True))
    assert torch.equal(unused, torch.zeros(2, 3, dtype=torch.float64))


def test_batch_statistics_are_used_though_none_are_recorded() -> None:
    model, (images, _) = small(), batch()
    with frozen_statistics(model):
        frozen = model(images)
    torch.testing.assert_close(frozen, model(images))
    with pytest.raises(RuntimeError, match="on purpose"), frozen_statistics(model):
        raise RuntimeError("on purpose")
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_weights_come_back_after_an_exception() -> None:
    model, (images, labels) = small(), batch()
    before = [weight.detach().clone() for weight in perturbed_weights(model)]
    changes = weight_perturbation(model, lambda: F.cross_entropy(model(images), labels), gamma=GAMMA)
    with pytest.raises(RuntimeError, match="moved"), perturbed(perturbed_weights(model), changes):
        raise RuntimeError("moved" if not torch.equal(perturbed_weights(model)[0], before[0]) else "at rest")
    for weight, old in zip(perturbed_weights(model), before, strict=True):
        torch.testing.assert_close(weight.detach(), old, rtol=1e-14, atol=1e-16)
