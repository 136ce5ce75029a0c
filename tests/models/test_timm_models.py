"""The timm extra: there, absent, and asked for what it has not."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models import create_model
from robustbench_gkl.models.published import load_published


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'gklbench\[timm\]'"):
        create_model("timm:resnet18", num_classes=10)


def test_takes_what_timm_was_trained_with() -> None:
    timm = pytest.importorskip("timm")
    model = create_model("timm:test_byobnet", num_classes=10)
    config = timm.get_pretrained_cfg("test_byobnet")
    assert model.input_shape == config.input_size
    constants = model.normalize.constants()
    assert constants is not None
    assert constants[0] == pytest.approx(config.mean)
    assert constants[1] == pytest.approx(config.std)
    assert model.training


def test_given_constants_win() -> None:
    pytest.importorskip("timm")
    model = create_model("timm:test_byobnet", num_classes=10, mean=(0.25,), std=(0.5,))
    assert model.normalize.constants() == ([0.25], [0.5])


@pytest.mark.parametrize("name", ["timm:test_byobnet", "timm:test_vit"])
def test_other_image_shapes(name: str) -> None:
    pytest.importorskip("timm")
    model = create_model(name, num_classes=5, input_shape=(1, 32, 64)).eval()
    assert model.normalize.constants() is None
    assert model(torch.rand(2, 1, 32, 64)).shape == (2, 5)


def test_weights_of_timm_load_without_renaming() -> None:
    timm = pytest.importorskip("timm")
    source = timm.create_model("test_byobnet", num_classes=5).eval()
    model = create_model("timm:test_byobnet", num_classes=5, mean=(0.0,), std=(1.0,)).eval()
    images = torch.rand(2, *model.input_shape)
    load_published(model, source.state_dict())
    assert torch.equal(model(images), source(images))
    load_published(model, {f"module.{name}": tensor for name, tensor in model.state_dict().items()})
    assert torch.equal(model(images), source(images))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet81", {}, r"unknown model of timm [\d.]+ 'resnet81'; did you mean 'resnet"),
        ("timm:hf-hub:someone/something", {}, "unknown model of timm .* 'hf-hub:someone/something'"),
        ("timm:resnet18.no_such_tag", {}, "cannot build 'resnet18.no_such_tag'.*tag"),
        ("timm:test_vit", {"input_shape": (3, 8, 8)}, "cannot build 'test_vit' for images of 3x8x8"),
    ],
)
def test_what_timm_has_not_is_said_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=message) as caught:
        create_model(name, num_classes=10, **options)
    assert "\n" not in str(caught.value)
