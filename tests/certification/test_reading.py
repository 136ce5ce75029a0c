"""Networks read from traces of models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_nets import tiny_net
from torch import Tensor, nn

from robustbench_gkl.certification.network import MARGIN
from robustbench_gkl.certification.reading import read_network
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models import create_model


@pytest.mark.parametrize("name", ["cnn-a", "tiny-cnn", "resnet18", "preact-resnet18", "wrn-10-1"])
def test_our_architectures_are_read(name: str) -> None:
    images = torch.rand(3, 3, 32, 32)
    model = create_model(name, num_classes=10, input_shape=(3, 32, 32), mean=(0.4,), std=(0.3,)).eval()
    network = read_network(model, images)
    with torch.no_grad():
        torch.testing.assert_close(network(images), model(images), rtol=1e-4, atol=1e-5)


def test_hidden_neurons_beyond_the_first_layer_are_counted() -> None:
    network = read_network(tiny_net("residual", 0), torch.rand(1, 1, 5, 5))
    assert network.beyond_first == 2 * 3 * 3 * 3


class Says(nn.Module):
    """A network of one function after a convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution, self.function = nn.Conv2d(1, 2, 3), function

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.function(self.convolution(images)).flatten(1)


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        (torch.sigmoid, "sigmoid"),
        (nn.MaxPool2d(2), "max_pool2d"),
        (lambda features: features * features, "mul"),
        (nn.functional.silu, "silu"),
        (lambda features: features + torch.randn(features.shape), "randn"),
        (nn.BatchNorm2d(2, track_running_stats=False), "batch_norm"),
        (lambda features: features if bool((features > 0).all()) else -features, "traced"),
        (lambda features: features if features.detach().numpy().mean() > -9 else -features, "traced"),
        (lambda features: features if features.flatten()[0].tolist() > -9 else -features, "traced"),
        (lambda features: features if len(features) == 2 else -features, "computes otherwise"),
        (lambda features: features * features.mean(), "mean"),
        (lambda features: nn.functional.conv2d(features, features), "convolution"),
        (lambda features: torch.addmm(torch.ones(1, 2), features.flatten(1), torch.ones(18, 2)), "addmm"),
    ],
    ids=[
        "sigmoid",
        "max-pool",
        "product",
        "silu",
        "noise",
        "batch-norm",
        "branch",
        "numpy",
        "list",
        "batch-size",
        "mean-of-all",
        "own-weights",
        "addmm",
    ],
)
def test_what_has_no_bounds_is_named(function: Callable[[Tensor], Tensor], layer: str) -> None:
    with pytest.raises(UserError, match=f"^unsupported: .*{layer}"):
        read_network(Says(function).eval(), torch.rand(2, 1, 5, 5))


def test_one_logit_is_refused() -> None:
    with pytest.raises(UserError, match=r"^unsupported: Sequential has one logit"):
        read_network(nn.Sequential(nn.Flatten(), nn.Linear(25, 1)).eval(), torch.rand(2, 1, 5, 5))


class Nudged(nn.Module):
    """A network whose first logit is larger by something that its trace, which is of two images, has not."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.last = by, nn.Linear(25, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 3) of images (B, 1, 5, 5)."""
        logits: Tensor = self.last(images.flatten(1)).clone()
        if len(images) != 2:
            logits = logits + torch.tensor([self.by, 0.0, 0.0])
        return logits


def test_no_model_differs_from_its_trace_by_what_a_proof_rests_on() -> None:
    """Half the margin that a certificate has is the most."""
    torch.manual_seed(0)
    images = torch.rand(2, 1, 5, 5) / 50
    read_network(Nudged(MARGIN / 4).eval(), images)
    with pytest.raises(UserError, match=r"computes otherwise than its trace \(logits differ by 1e-05\)"):
        read_network(Nudged(MARGIN).eval(), images)


def test_a_relu_in_place_changes_what_other_names_see() -> None:
    def through_a_view(features: Tensor) -> Tensor:
        flat = (features + 3).flatten(1)  # positive on both images that are traced
        flat.view(-1, 2, 3, 3).relu_()
        return flat

    network = read_network(Says(through_a_view).eval(), torch.rand(2, 1, 5, 5))
    assert network.relus
    (read,) = (step for step in network.steps if network.relus[0] in step.inputs)
    assert read.shape == (18,)


def test_folded_constants_are_exact() -> None:
    """A large mean comes out again, in float64 for all but what float64 loses."""
    norm = nn.BatchNorm2d(2)
    assert norm.running_mean is not None
    norm.running_mean.copy_(torch.tensor([3e3, -7e3]))
    net = nn.Sequential(nn.Conv2d(1, 2, 2), norm, nn.AvgPool2d(3, stride=1), nn.Flatten(), nn.Linear(8, 3)).eval()
    images = torch.rand(2, 1, 5, 5)
    network = read_network(net, images)
    with torch.no_grad():
        precise = network.to(torch.float64)(images.double())
        torch.testing.assert_close(precise, net.double()(images.double()), rtol=1e-12, atol=1e-12)
