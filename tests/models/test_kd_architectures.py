"""The networks of the distillation literature against what was published, torchvision and real weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from reference_models import REFERENCE, SHARED, assert_published, filled, needs_shared, reference_images
from torch import Tensor, nn

from robustbench_gkl.models import create_model
from robustbench_gkl.models.published import load_published, read_checkpoint

MDISTILLER = {
    "resnet8": "resnet8",
    "resnet20": "resnet20",
    "resnet32": "resnet32",
    "resnet56": "resnet56",
    "resnet110": "resnet110",
    "resnet8x4": "resnet8x4",
    "resnet32x4": "resnet32x4",
    "ResNet50": "kd-resnet50",
    "wrn_16_2": "kd-wrn-16-2",
    "wrn_40_1": "kd-wrn-40-1",
    "wrn_40_2": "kd-wrn-40-2",
    "vgg8": "vgg8",
    "vgg13": "vgg13",
    "MobileNetV2": "mobilenetv2",
    "ShuffleV1": "shufflenetv1",
    "ShuffleV2": "shufflenetv2",
}
"""Our names of mdistiller's networks, for 100 classes."""
REAL = {"resnet20": ("cifar-resnet20", 81.65), "resnet56": ("cifar-resnet56", 82.45)}
"""Real CIFAR-10 classifiers: our names, and their accuracy in percent."""


@needs_shared
@pytest.mark.parametrize("case", MDISTILLER)
def test_mdistillers_names_shapes_and_logits(case: str) -> None:
    references = json.loads((REFERENCE / "kd_architectures.json").read_text())
    assert set(references) == set(MDISTILLER)
    assert_published(filled(MDISTILLER[case], num_classes=100), references[case])


@needs_shared
@pytest.mark.parametrize("case", REAL)
def test_cifar_resnets_are_the_real_ones(case: str) -> None:
    name, accuracy = REAL[case]
    with np.load(SHARED / "data" / "cifar10-jpeg-12k.npz") as data:
        images = torch.from_numpy(data["x_test"]).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(data["y_test"]).long()
    model = create_model(name, num_classes=10, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).eval()
    load_published(model, read_checkpoint(SHARED / "models" / f"cifar10_{case}.th"))
    with torch.no_grad():
        logits = torch.cat([model(part) for part in torch.split(images, 200)])
    with np.load(REFERENCE / "real_models.npz") as reference:
        expected = torch.from_numpy(reference[f"{case}/logits"])
    assert (logits[:16] - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert 100 * (logits.argmax(1) == labels).double().mean().item() == pytest.approx(accuracy)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_kd_resnets_are_torchvisions_with_another_stem(depth: int) -> None:
    model = filled(f"kd-resnet{depth}", num_classes=7)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    theirs.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    names = {name: name.replace("shortcut", "downsample").replace("linear", "fc") for name in model.state_dict()}
    theirs.load_state_dict({names[name]: tensor for name, tensor in model.state_dict().items()})
    images = reference_images(model)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vggs_have_the_features_of_torchvisions(depth: int) -> None:
    """Of images of 64x64, before its fifth halving."""
    model = filled(f"vgg{depth}", num_classes=7, input_shape=(3, 64, 64))
    theirs = getattr(torchvision.models, f"vgg{depth}_bn")().features[:-1].eval()
    ours = [tensor for name, tensor in model.state_dict().items() if not name.startswith("classifier")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours, strict=True)))
    images = reference_images(model)
    with torch.no_grad():
        expected = model.get_submodule("classifier")(theirs(images).mean((2, 3)))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 15, 9)])
def test_cifar_resnet_pads_its_shortcuts(shape: tuple[int, int, int]) -> None:
    model = filled("cifar-resnet8", num_classes=10, input_shape=shape)
    state, images = model.state_dict(), reference_images(model)

    def convolve(x: Tensor, conv: str, norm: str, stride: int) -> Tensor:
        out = nn.functional.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        statistics = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(out, *statistics)

    x = convolve(images, "conv1", "bn1", 1).relu()
    for layer, stride in (("layer1.0", 1), ("layer2.0", 2), ("layer3.0", 2)):
        out = convolve(x, f"{layer}.conv1", f"{layer}.bn1", stride).relu()
        out = convolve(out, f"{layer}.conv2", f"{layer}.bn2", 1)
        beside = torch.zeros_like(out)
        first = (out.shape[1] - x.shape[1]) // 2
        beside[:, first : first + x.shape[1]] = x[:, :, ::stride, ::stride]
        x = (out + beside).relu()
    expected = nn.functional.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_mdistillers_teachers_are_read(tmp_path: Path) -> None:
    """Their files hold the weights under ``model``, beside the optimiser's state and the accuracy as a tensor."""
    published = filled("resnet8x4", num_classes=100)
    optimizer = torch.optim.SGD(published.parameters(), lr=0.05, momentum=0.9)
    content = {"epoch": 240, "model": published.state_dict(), "accuracy": torch.tensor(72.5)}
    torch.save(content | {"optimizer": optimizer.state_dict()}, tmp_path / "ckpt_epoch_240.pth")
    model = create_model("resnet8x4", num_classes=100).eval()
    load_published(model, read_checkpoint(tmp_path / "ckpt_epoch_240.pth"))
    images = reference_images(model)
    assert torch.equal(model(images), published(images))


@pytest.mark.parametrize(
    ("name", "weight", "deviation"),
    [
        ("cifar-resnet20", "layer3.1.conv2.weight", math.sqrt(2 / (9 * 64))),
        ("cifar-resnet20", "layer2.0.conv1.weight", math.sqrt(2 / (9 * 16))),
        ("cifar-resnet20", "linear.weight", math.sqrt(2 / 64)),
        ("resnet8x4", "layer3.0.conv1.weight", math.sqrt(2 / (9 * 256))),
        ("kd-resnet18", "layer4.0.conv1.weight", math.sqrt(2 / (9 * 512))),
        ("vgg8", "block3.0.weight", math.sqrt(2 / (9 * 512))),
        ("vgg8", "classifier.weight", 0.01),
        ("mobilenetv2", "blocks.6.0.conv.3.weight", math.sqrt(2 / (9 * 480))),
        ("mobilenetv2", "classifier.0.weight", 0.01),
    ],
)
def test_distilled_networks_start_as_published(name: str, weight: str, deviation: float) -> None:
    torch.manual_seed(0)
    state = create_model(name, num_classes=100).state_dict()
    assert state[weight].std().item() == pytest.approx(deviation, rel=0.05)
    if deviation == 0.01:
        assert not state[weight.replace("weight", "bias")].any()
