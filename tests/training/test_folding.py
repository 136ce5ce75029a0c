from __future__ import annotations

import logging
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.ranks.collectives import ALONE
from robustbench_gkl.training.folding import FoldedModel
from robustbench_gkl.training.sync_batchnorm import synchronize

FOLDS = {"wrn-10-1": 3, "wrn-10-1-swish": 3, "preact-resnet18": 8, "resnet18": 20, "tiny-cnn": 0, "small-cnn": 0} | {
    "cifar-resnet8": 7,
    "resnet8": 9,
    "resnet8x4": 10,
    "kd-resnet50": 53,
    "vgg11": 8,
    "mobilenetv2": 53,
    "shufflenetv1": 49,
    "shufflenetv2": 56,
}


def shaken(name: str) -> nn.Module:
    """Build a model whose batch normalisation is not the identity."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, input_shape=(3, 20, 20)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def logits_and_gradient(network: object, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    logits = network(images)  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    return logits.detach(), gradient


@pytest.mark.parametrize("synchronised", [False, True])
@pytest.mark.parametrize("name", FOLDS)
def test_logits_and_gradients_are_the_models(name: str, synchronised: bool) -> None:
    model = shaken(name)
    if synchronised:
        synchronize(model, ALONE)
    folded = FoldedModel(model)
    assert folded.folded == FOLDS[name]
    images = torch.rand(3, 3, 20, 20, dtype=torch.float64)
    for _ in range(2):
        folded.refresh()
        with attack_mode(model):
            expected, got = logits_and_gradient(model, images), logits_and_gradient(folded, images)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        with torch.no_grad():  # as an update does
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.mul_(1.1)


def test_building_and_calling_leave_the_model_alone() -> None:
    model = shaken("resnet18").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = list(model.parameters())
    folded = FoldedModel(model)
    assert all(module.training for module in model.modules())
    with attack_mode(model):
        folded.refresh()
        folded(torch.rand(2, 3, 20, 20, dtype=torch.float64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [id(parameter) for parameter in model.parameters()] == [id(parameter) for parameter in parameters]


class Small(Classifier):
    """A convolution and a batch normalisation that can be folded into it."""

    foldable: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(num_classes=3, input_shape=(3, 4, 4))
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward_normalized(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images))
        return features.mean((2, 3))


class Foreign(Small):
    """Does not say that it can be folded, but would pass on one batch: its scale is an attribute that will change."""

    scale = 1.0

    def forward_normalized(self, images: Tensor) -> Tensor:
        return self.scale * super().forward_normalized(images)


class Branching(Small):
    """Its path depends on the values, so it cannot be traced."""

    foldable: ClassVar[bool] = True

    def forward_normalized(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images))
        return features.mean((2, 3)) if bool(features.sum() > 0) else features.amax((2, 3))


class Noisy(Small):
    """Draws random numbers, which tracing freezes."""

    foldable: ClassVar[bool] = True

    def forward_normalized(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(self.conv(images + 0.1 * torch.randn(3, 4, 4)))
        return features.mean((2, 3))


def test_what_declares_itself_is_folded_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "robustbench_gkl"):
        assert FoldedModel(Small()).folded == 1
        assert FoldedModel(Small(), fold=False).folded == 0
    assert not caplog.records


@pytest.mark.parametrize(
    ("model", "reason"), [(Branching(), "control flow"), (Noisy(), "its logits differ by")], ids=["branching", "noisy"]
)
def test_a_network_whose_twin_fails_is_used_as_it_is(
    model: Classifier, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "robustbench_gkl"):
        folded = FoldedModel(model)
    assert folded.network is model
    assert folded.folded == 0
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "attack.fold=off" in record.getMessage()


def test_a_network_that_declares_nothing_is_not_frozen() -> None:
    model = Foreign().eval()
    folded = FoldedModel(model)
    model.scale = 3.0
    folded.refresh()
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(folded(images), model(images))


class Reused(Small):
    """One convolution feeds a batch normalisation and is read a second time."""

    foldable: ClassVar[bool] = True

    def forward_normalized(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        normed: Tensor = self.norm(features)
        total: Tensor = normed + features + self.norm(self.conv(normed))
        return total.mean((2, 3))


def test_what_is_used_twice_is_not_folded() -> None:
    assert FoldedModel(Reused()).folded == 0
