"""Networks for ImageNet under their published parameter names."""

from __future__ import annotations

import pytest
import torch
import torchvision
from reference_models import filled, reference_images
from torch import Tensor, nn

from robustbench_gkl.models import create_model
from robustbench_gkl.models.published import load_published

SMALL = (3, 48, 40)


@pytest.mark.parametrize("depth", [18, 50])
def test_resnets_are_torchvisions(depth: int) -> None:
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    model = create_model(f"imagenet-resnet{depth}", num_classes=7, input_shape=SMALL).eval()
    load_published(model, theirs.state_dict())
    images = reference_images(model)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("imagenet-resnet34", 21_797_672), ("imagenet-resnext101-32x4d", 44_177_704), ("mobilenetv1", 4_231_976)],
)
def test_sizes_are_the_published_ones(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.input_shape == (3, 224, 224)


def test_mobilenetv1_is_depthwise_separable() -> None:
    """By mdistiller's names: ``model.0`` is the stem, the next thirteen alternate 3x3 by planes and 1x1."""
    model = filled("mobilenetv1", num_classes=7, input_shape=SMALL)
    state, images = model.state_dict(), reference_images(model)

    def layer(x: Tensor, name: str, number: int, *, stride: int, groups: int) -> Tensor:
        weight = state[f"{name}.{number}.weight"]
        out = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        parts = ("running_mean", "running_var", "weight", "bias")
        return nn.functional.batch_norm(out, *(state[f"{name}.{number + 1}.{part}"] for part in parts)).relu()

    x = layer(images, "model.0", 0, stride=2, groups=1)
    for number in range(1, 14):
        x = layer(x, f"model.{number}", 0, stride=2 if number in (2, 4, 6, 12) else 1, groups=x.shape[1])
        x = layer(x, f"model.{number}", 3, stride=1, groups=1)
    expected = nn.functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
