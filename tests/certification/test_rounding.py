"""Certificates where numbers are large, cancel or overflow, and at the edges of balls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gkl.certification.certifier import Certifier
from robustbench_gkl.certification.crown import Lines, hidden_bounds
from robustbench_gkl.certification.operations import Interval
from robustbench_gkl.certification.reading import read_network
from robustbench_gkl.certification.region import Region
from robustbench_gkl.core.threat import ThreatModel


def cancelling(seed: int) -> tuple[nn.Sequential, Tensor]:
    """Return a network of terms of 3e4 that cancel, and an image that an adversary at linf 0.1 fools by a little."""
    torch.manual_seed(seed)
    first, second, last = nn.Linear(4, 16), nn.Linear(16, 1), nn.Linear(1, 2)
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last).requires_grad_(False)
    first.bias.fill_(3e4)  # never off: the hidden value is affine in the pixels
    second.weight.copy_(torch.randn(1, 16))
    image = torch.full((1, 1, 2, 2), 0.5)
    slopes = (second.weight.double() @ first.weight.double())[0]
    corner = (image.double().flatten() + 0.1 * slopes.sign()).reshape(1, 1, 2, 2)
    second.bias.copy_(0.05 - second.weight.double() @ first(image.flatten()).double() - 0.1 * slopes.abs().sum())
    most = nn.Sequential(*net[:4]).double()(corner)[0, 0]
    net.float()
    second.bias.sub_(float(most) - 0.005)
    last.weight.copy_(torch.tensor([[0.0], [1e4]]))
    last.bias.copy_(torch.tensor([1.0, 0.0]))
    return net.eval(), image


def test_terms_that_cancel_are_not_certified_wrongly() -> None:
    label, threat, fooled = torch.zeros(1, dtype=torch.int64), ThreatModel("linf", 0.1), 0
    for seed in range(20):
        net, image = cancelling(seed)
        second, first = (net[number].get_parameter("weight").double() for number in (3, 1))
        slopes = second @ first
        corner = image.double() + 0.1 * slopes.sign().reshape(image.shape)
        found = Certifier(read_network(net, image), threat).bound(image, label)[0].method
        if int(net.double()(corner).argmax()) == 1:
            fooled += 1
            assert found is None, seed
    assert fooled > 5


def test_bounds_that_overflow_leave_a_relu_unstable() -> None:
    nothing = torch.tensor([torch.nan, -torch.inf])
    lines = Lines.of(Interval(nothing, -nothing))
    assert bool(lines.unstable.all())
    assert bool(lines.upper.isnan().all())  # and so is what is proved with it


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_image_that_counts_as_in_the_ball_is_in_the_region(norm: str) -> None:
    """One pixel takes all that rounding may add to a length."""
    origin, threat = torch.full((1, 3, 32, 32), 0.5), ThreatModel(norm, 0.1)
    low, high = 0.1, 0.2
    image = origin.clone()
    for _ in range(40):
        image[0, 0, 0, 0] = 0.5 + (low + high) / 2
        low, high = ((low + high) / 2, high) if bool(threat.contains(image, origin)) else (low, (low + high) / 2)
    image[0, 0, 0, 0] = 0.5 + low
    assert bool(threat.contains(image, origin))
    box = Region.around(threat, origin).box
    assert bool(((image >= box.low) & (image <= box.high)).all())


class Paths(nn.Module):
    """Two paths of different strides whose maps have one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(8, 3)
        self.wide, self.close = nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Conv2d(1, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 3) of images (B, 1, 4, 4)."""
        features = F.relu(self.before(images))
        logits: Tensor = self.last(F.relu(self.wide(features) + self.close(features)).flatten(1))
        return logits


def test_paths_of_different_strides_are_joined_where_they_lie() -> None:
    torch.manual_seed(0)
    origin, threat = torch.rand(4, 1, 4, 4), ThreatModel("linf", 0.3)
    network = read_network(Paths().eval(), origin)
    bounds, _ = hidden_bounds(network, Region.around(threat, origin))
    for _ in range(200):
        values = network.values(threat.project(origin + torch.randn_like(origin).sign(), origin))
        for relu, known in bounds.items():
            z = values[network.steps[relu].inputs[0]]
            assert bool(((z >= known.low) & (z <= known.high)).all())
