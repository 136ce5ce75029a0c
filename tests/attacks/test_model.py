"""Models of known layers alone: told from those that run code of another origin, or draw random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from robustbench_gkl.attacks.model import is_layers_alone
from robustbench_gkl.models import create_model
from robustbench_gkl.models.base import WrappedClassifier


class Counting(nn.Linear):
    """Counts its calls."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images)


class Labelled(Tensor):
    """A tensor that may do something of its own at each operation."""


def layer() -> nn.Linear:
    return nn.Linear(3, 3)


def changed(change: Callable[[nn.Linear], object]) -> nn.Module:
    """Return a layer after ``change``, inside another module."""
    inner = layer()
    change(inner)
    return nn.Sequential(nn.ReLU(), inner)


@pytest.mark.parametrize(
    "model",
    [
        create_model("preact-resnet18", num_classes=5),
        WrappedClassifier(torchvision.models.mobilenet_v3_small(num_classes=5), num_classes=5, input_shape=(3, 32, 32)),
        parametrizations.spectral_norm(parametrizations.weight_norm(layer())),
        nn.TransformerEncoderLayer(4, 2),
    ],
)
def test_known_layers(model: nn.Module) -> None:
    assert is_layers_alone(nn.Sequential(model, nn.Softmax(1)))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(layer(), Counting(3, 3)),
        parametrizations.weight_norm(Counting(3, 3)),  # its class is torch's now
        changed(lambda inner: parametrize.register_parametrization(inner, "weight", Counting(3, 3))),
        changed(lambda inner: inner.register_forward_hook(lambda *_: None)),
        changed(lambda inner: inner.register_full_backward_pre_hook(lambda *_: None)),
        changed(lambda inner: setattr(inner, "forward", lambda images: images)),
        changed(lambda inner: inner.compile(backend="eager")),
        changed(lambda inner: setattr(inner, "weight", nn.Parameter(torch.ones(3, 3).as_subclass(Labelled)))),
        nn.TransformerEncoderLayer(4, 2, activation=lambda values: values),
        torch.fx.symbolic_trace(nn.Sequential(layer())),
        torchvision.transforms.RandomHorizontalFlip(),
        nn.FractionalMaxPool2d(2, output_size=2),
        nn.DataParallel(layer()),
    ],
)
def test_more_than_known_layers(model: Any) -> None:
    assert not is_layers_alone(nn.Sequential(nn.Identity(), model))


def test_a_method_of_a_class_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Linear, "forward", lambda self, images: images)
    assert not is_layers_alone(layer())


def test_a_hook_on_all_modules() -> None:
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not is_layers_alone(layer())
    finally:
        hook.remove()
    assert is_layers_alone(layer())
