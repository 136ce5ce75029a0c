"""What every registered architecture promises; a new one is tested here without a line."""

from __future__ import annotations

import contextlib
import copy
import math
import re

import pytest
import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models import MODELS, Classifier, create_model

# What stands for the capitals in the name of a family, such as wrn-D-W: of the depths the first that it has.
PLACEHOLDERS = {"W": "2", "NAME": "test_byobnet"}
DEPTHS = ("10", "8", "18")
NUM_CLASSES = 7


def example(name: str) -> str:
    """Return a name of the family ``name``."""
    for depth in DEPTHS:
        values = PLACEHOLDERS | {"D": depth}
        filled = "".join(values.get(part, part) for part in re.split("([A-Z]+)", name))
        if "D" not in name:
            return filled
        with contextlib.suppress(UserError), torch.device("meta"):
            create_model(filled, num_classes=NUM_CLASSES)
            return filled
    raise AssertionError(f"{name} has none of the depths {', '.join(DEPTHS)}")


EXAMPLES = [example(name) for name in MODELS.names()]


def build(name: str, **options: tuple[float, ...]) -> Classifier:
    """Return the model in eval mode, with noise on its weights: some start with a last layer of zeros."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    shape = (3, 64, 64) if name.startswith(("imagenet-", "mobilenetv1")) else None
    model = create_model(name, num_classes=NUM_CLASSES, input_shape=shape, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
            if name == "mobilenetv1" and parameter.dim() == 4:
                parameter.mul_(math.sqrt(6))  # to He's scale: from torch's own, an image fades over 27 layers
    return model.eval()


def images_for(model: Classifier, *, batch: int = 4) -> Tensor:
    return torch.rand(batch, *model.input_shape, generator=torch.Generator().manual_seed(1))


def tolerance(logits: Tensor) -> float:
    return 1e-5 * max(1.0, logits.abs().max().item())


@pytest.fixture(params=EXAMPLES)
def model(request: pytest.FixtureRequest) -> Classifier:
    return build(request.param)


def test_each_family_is_here() -> None:
    families = {
        "cifar-resnetD",
        "cnn-a",
        "imagenet-resnetD",
        "imagenet-resnext101-32x4d",
        "kd-resnetD",
        "kd-wrn-D-W",
        "mobilenetv1",
        "mobilenetv2",
        "preact-resnet18",
        "resnet18",
        "resnetD",
        "resnetDx4",
        "shufflenetv1",
        "shufflenetv2",
        "small-cnn",
        "timm:NAME",
        "tiny-cnn",
        "vggD",
        "wrn-D-W",
        "wrn-D-W-swish",
    }
    assert families <= set(MODELS.names())
    assert all(entry.summary for entry in MODELS.entries())


def test_logits(model: Classifier) -> None:
    images = images_for(model)
    logits = model(images)
    assert logits.shape == (len(images), NUM_CLASSES)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert (logits.amax(0) > logits.amin(0)).all(), "the logits do not depend on the image"


def test_input_is_left_alone(model: Classifier) -> None:
    images = images_for(model)
    before = images.clone()
    model(images)
    assert torch.equal(images, before)


def test_gradient_reaches_each_image(model: Classifier) -> None:
    images = images_for(model).requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[:, 0].sum(), images)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_training_reaches_each_parameter(model: Classifier) -> None:
    model.train()
    torch.nn.functional.cross_entropy(model(images_for(model)), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused


def test_prediction_does_not_depend_on_the_batch(model: Classifier) -> None:
    images = images_for(model)
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=tolerance(together))
    assert torch.equal(model(images), together)


def test_channels_last_changes_nothing(model: Classifier) -> None:
    images = images_for(model)
    logits = model(images)
    model.to(memory_format=torch.channels_last)
    again = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(again, logits, rtol=0, atol=tolerance(logits))


def test_autocast(model: Classifier) -> None:
    images = images_for(model)
    exact = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).abs().max() < 0.1 * (exact.abs().max() + 1)


def test_copies_and_state_dicts_are_complete(model: Classifier) -> None:
    images = images_for(model)
    copied = copy.deepcopy(model)
    for tensor in copied.state_dict().values():
        tensor.zero_()
    assert not torch.equal(copied(images), model(images))
    copied.load_state_dict(model.state_dict())
    assert torch.equal(copied(images), model(images))


def test_parameters_can_be_swapped(model: Classifier) -> None:
    """Adversarial weight perturbation runs a model with other weights through torch.func."""
    images = images_for(model)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert torch.equal(torch.func.functional_call(model, weights, (images,)), model(images))


@pytest.mark.parametrize("name", EXAMPLES)
def test_normalisation_is_applied_inside_and_not_in_the_state_dict(name: str) -> None:
    bare = build(name, mean=(0.0,), std=(1.0,))
    channels = bare.input_shape[0]
    mean, std = (0.4, 0.5, 0.3)[:channels], (0.2, 0.3, 0.25)[:channels]
    model = build(name, mean=mean, std=std)
    assert list(model.state_dict()) == list(bare.state_dict())
    assert not any(key.startswith("normalize.") for key in model.state_dict())
    images = images_for(bare)
    by_hand = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(channels)], dim=1)
    expected = bare(by_hand)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=tolerance(expected))
    constants = model.normalize.constants()
    assert constants is not None
    assert constants[0] == pytest.approx(mean)
    assert constants[1] == pytest.approx(std)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees(model: Classifier) -> None:
    images = images_for(model)
    logits = model(images)
    on_device = model.cuda()(images.cuda()).cpu()
    assert (on_device - logits).abs().max() < 1e-2 * logits.abs().max()
