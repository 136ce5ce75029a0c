"""Each architecture against what was published: names, shapes, sizes, logits, real weights."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_models import (
    REFERENCE,
    SHARED,
    assert_published,
    filled,
    needs_shared,
    parameter_count,
    reference_images,
)
from torch import Tensor, nn

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models import create_model
from robustbench_gkl.models.published import load_published, read_checkpoint

PUBLISHED = {
    "dkl:wrn-34-10(cifar100)": ("wrn-34-10", 100),
    "dkl:wrn-10-2(cifar10)": ("wrn-10-2", 10),
    "dkl:wrn-28-10-swish(cifar10)": ("wrn-28-10-swish", 10),
    "dm:preact-resnet18(cifar10)": ("preact-resnet18", 10),
    "trades:small-cnn(mnist)": ("small-cnn", 10),
}


@needs_shared
@pytest.mark.parametrize("case", PUBLISHED)
def test_published_names_shapes_and_logits(case: str) -> None:
    name, num_classes = PUBLISHED[case]
    reference = json.loads((REFERENCE / "architectures.json").read_text())[case]
    assert_published(filled(name, num_classes=num_classes), reference)


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters", "keys"),
    [
        (
            "wrn-34-10",
            100,
            46_218_164,
            ["block1.layer.0.convShortcut.weight", "block3.layer.4.conv2.weight"],
        ),
        ("wrn-10-2", 10, 303_706, ["conv1.weight", "block2.layer.0.bn1.running_var", "bn1.weight", "fc.weight"]),
        ("wrn-28-10-swish", 10, 36_479_194, ["init_conv.weight", "layer.2.block.0.shortcut.weight", "logits.bias"]),
        ("preact-resnet18", 10, 11_172_170, ["conv1.weight", "layer2.0.shortcut.0.weight", "bn.bias", "linear.weight"]),
        ("small-cnn", 10, 312_202, ["feature_extractor.conv4.weight", "classifier.fc1.weight", "classifier.fc3.bias"]),
        ("resnet18", 10, 11_173_962, ["bn1.weight", "layer4.0.shortcut.1.running_mean", "linear.bias"]),
        ("cnn-a", 10, 214_918, ["0.weight", "2.bias", "5.weight", "7.bias"]),
        ("cifar-resnet20", 10, 269_722, ["layer2.0.conv1.weight", "layer3.2.bn2.bias", "linear.weight"]),
        ("resnet8x4", 100, 1_233_540, ["layer1.0.downsample.1.weight", "layer3.0.conv2.weight", "fc.bias"]),
        ("resnet56", 100, 861_620, ["layer2.0.downsample.0.weight", "layer3.8.conv2.weight", "fc.weight"]),
        ("kd-resnet50", 100, 23_705_252, ["layer1.0.shortcut.0.weight", "layer4.2.conv3.weight", "linear.weight"]),
        ("kd-wrn-40-2", 100, 2_255_156, ["block1.layer.5.conv2.weight", "bn1.bias", "fc.bias"]),
        ("vgg8", 100, 3_965_028, ["block0.0.weight", "block4.1.running_var", "classifier.bias"]),
        ("mobilenetv2", 100, 812_836, ["conv1.0.weight", "blocks.6.0.conv.7.bias", "classifier.0.weight"]),
        ("shufflenetv1", 100, 949_258, ["conv1.weight", "layer3.3.bn3.weight", "linear.bias"]),
        ("shufflenetv2", 100, 1_355_528, ["layer1.0.conv5.weight", "conv2.weight", "linear.bias"]),
    ],
)
def test_published_sizes_and_names(name: str, num_classes: int, parameters: int, keys: list[str]) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes)
    assert parameter_count(model) == parameters
    assert set(keys) <= set(model.state_dict())


def same_padded(model: nn.Module, images: Tensor) -> Tensor:
    """Evaluate a `wrn-10-W-swish` from its state dict, with TensorFlow's SAME padding written out by its formula."""
    state = model.state_dict()

    def convolve(x: Tensor, key: str, stride: int) -> Tensor:
        weight = state[f"{key}.weight"]
        padding = []
        for side, kernel in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        return nn.functional.conv2d(nn.functional.pad(x, padding), weight, stride=stride)

    def activate(x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{key}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / torch.sqrt(var + 1e-5) * weight + bias
        return x * torch.sigmoid(x)

    x = convolve(images, "init_conv", 1)
    for group, stride in enumerate((1, 2, 2)):
        block = f"layer.{group}.block.0"
        active = activate(x, f"{block}.batchnorm_0")
        out = convolve(active, f"{block}.conv_0", stride)
        out = convolve(activate(out, f"{block}.batchnorm_1"), f"{block}.conv_1", 1)
        x = out + (convolve(active, f"{block}.shortcut", stride) if f"{block}.shortcut.weight" in state else x)
    pooled = activate(x, "batchnorm").mean((2, 3))
    return nn.functional.linear(pooled, state["logits.weight"], state["logits.bias"])


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 14, 20), (1, 15, 9)])
def test_swish_pads_as_tensorflow_does(shape: tuple[int, int, int]) -> None:
    model = filled("wrn-10-2-swish", num_classes=10, input_shape=shape, mean=(0.0,), std=(1.0,))
    images = reference_images(model)
    torch.testing.assert_close(model(images), same_padded(model, images), rtol=1e-4, atol=1e-4)


def test_swish_normalises_as_its_data_set_was() -> None:
    def constants(**options: Any) -> object:
        pair = create_model("wrn-10-1-swish", **options).normalize.constants()
        return pair and tuple(pytest.approx(values) for values in pair)

    assert constants(num_classes=10) == ([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616])
    assert constants(num_classes=100) == ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762])
    assert constants(num_classes=100, mean=(0.5,), std=(0.25,)) == ([0.5], [0.25])
    assert constants(num_classes=10, input_shape=(1, 28, 28)) is None


def test_resnet18_reads_the_checkpoint_of_pyautoattack() -> None:
    resnet: Any = importlib.import_module("pyautoattack.examples.resnet")
    state = read_checkpoint(Path(resnet.__file__).with_name("model_test.pt"))
    model = create_model("resnet18", num_classes=10).eval()
    load_published(model, state)
    reference = resnet.ResNet18().eval()
    reference.load_state_dict(state)
    images = reference_images(model)
    assert list(model.state_dict()) == list(reference.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images), rtol=1e-5, atol=1e-5)


@needs_shared
def test_cnn_a_is_right_where_the_published_model_is() -> None:
    """The same real weights, the same 500 images: the same samples are classified correctly."""
    with np.load(SHARED / "data" / "cifar10-jpeg-12k.npz") as data:
        images = torch.from_numpy(data["x_test"][:500]).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(data["y_test"][:500]).long()
    with np.load(SHARED / "reference" / "autoattack_verdicts_cnn_a_adv_linf2.npz") as verdicts:
        expected = torch.from_numpy(verdicts["clean_correct"]).bool()
    model = create_model("cnn-a", num_classes=10, mean=(0.4914, 0.4822, 0.4467), std=(0.225,)).eval()
    load_published(model, read_checkpoint(SHARED / "models" / "cifar_cnn_a_adv.model"))
    with torch.no_grad():
        correct = model(images).argmax(1) == labels
    assert torch.equal(correct, expected)


@pytest.mark.parametrize(("name", "fan_out"), [("wrn-10-4", 9 * 256), ("wrn-10-4-swish", 9 * 256)])
def test_wide_resnets_start_he_normal(name: str, fan_out: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=10)
    weights = [tensor for tensor in model.parameters() if tensor.shape == (256, 256, 3, 3)]
    assert len(weights) == 1
    assert weights[0].std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.01)
    assert not any(layer.bias.any() for layer in model.modules() if isinstance(layer, nn.Linear))


def test_small_cnn_starts_undecided() -> None:
    model = create_model("small-cnn", num_classes=7)
    assert torch.equal(model(torch.rand(3, 1, 28, 28)), torch.zeros(3, 7))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tiny-cnn", (1, 1, 1)),
        ("tiny-cnn", (1, 8, 8)),
        ("tiny-cnn", (2, 7, 31)),
        ("tiny-cnn", (3, 224, 224)),
        ("small-cnn", (3, 16, 19)),
        ("small-cnn", (3, 32, 32)),
        ("cnn-a", (1, 28, 30)),
        ("resnet18", (1, 8, 8)),
        ("preact-resnet18", (3, 20, 12)),
        ("wrn-10-1", (1, 28, 28)),
        ("wrn-10-1", (3, 64, 64)),
        ("wrn-10-1-swish", (3, 64, 64)),
        ("wrn-10-1-swish", (1, 7, 5)),
        ("cifar-resnet8", (1, 28, 28)),
        ("resnet8", (3, 64, 64)),
        ("resnet8x4", (1, 7, 5)),
        ("kd-resnet18", (1, 8, 8)),
        ("vgg8", (1, 8, 9)),
        ("mobilenetv2", (1, 28, 28)),
        ("shufflenetv1", (3, 20, 12)),
        ("shufflenetv2", (1, 28, 28)),
    ],
)
def test_other_image_shapes(name: str, shape: tuple[int, int, int]) -> None:
    model = create_model(name, num_classes=3, input_shape=shape).eval()
    assert model.input_shape == shape
    assert model(torch.rand(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 224, 224)])
def test_tiny_cnn_stays_tiny(shape: tuple[int, int, int]) -> None:
    assert parameter_count(create_model("tiny-cnn", num_classes=10, input_shape=shape)) < 11_000


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn-30-2", {}, "got 30; use 28 or 34"),
        ("wrn-4-2", {}, "got 4; use 10"),
        ("wrn-0-2", {}, "got 0; use 10"),
        ("wrn-30-2-swish", {}, "got 30; use 28 or 34"),
        ("wrn-10-0", {}, "width .* at least 1, got 0"),
        ("wrn-10", {}, "unknown model 'wrn-10'; did you mean 'wrn-D-W'"),
        ("wrn-ten-2", {}, "unknown model"),
        ("kd-wrn-30-2", {}, "got 30; use 28 or 34"),
        ("cifar-resnet18", {}, "got 18; use 14 or 20"),
        ("cifar-resnet2", {}, "got 2; use 8"),
        ("resnet50", {}, "unknown model 'resnet50'; did you mean"),
        ("resnet20x4", {}, "unknown model"),
        ("vgg12", {}, "unknown model"),
        ("vgg16", {"input_shape": (3, 32, 7)}, "vgg16 needs images of at least 8x8, got 32x7"),
        ("preact-resnet-18", {}, "did you mean 'preact-resnet18'"),
        ("small-cnn", {"input_shape": (1, 8, 28)}, "at least 16x16, got 8x28"),
        ("cnn-a", {"input_shape": (3, 32, 3)}, "at least 4x4, got 32x3"),
        ("tiny-cnn", {"input_shape": (1, 0, 8)}, "each at least 1; got"),
        ("tiny-cnn", {"num_classes": 1}, "at least 2 classes, got 1"),
        ("tiny-cnn", {"mean": (0.5,)}, "mean and std are given together"),
        ("tiny-cnn", {"mean": (0.5, 0.5), "std": (1.0,)}, "mean needs 1 or 3 values"),
        ("tiny-cnn", {"mean": (0.5,), "std": (0.0,)}, "std must be above 0"),
        ("tiny-cnn", {"mean": (0.5,), "std": (math.nan,)}, "std must be above 0"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        create_model(name, **{"num_classes": 10, **options})
    assert "\n" not in str(caught.value)
