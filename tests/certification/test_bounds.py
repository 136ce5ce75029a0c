"""Bounds and branch and bound against exact answers, and against attacks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from exact_minimum import exact_minimum
from tiny_nets import tiny_net
from torch import Tensor, nn

from robustbench_gkl import certify, evaluate
from robustbench_gkl.certification.branching import Budget, Searched
from robustbench_gkl.certification.certifier import Certifier
from robustbench_gkl.certification.crown import ROUNDING, Lines, backward, hidden_bounds
from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.operations import Interval
from robustbench_gkl.certification.problems import Problems, improved
from robustbench_gkl.certification.reading import read_network
from robustbench_gkl.certification.region import Region
from robustbench_gkl.certification.rows import Rows
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

KINDS = ("residual", "convolutional")


def images(count: int, seed: int = 0, *, size: int = 5) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


def in_ball(threat: ThreatModel, origin: Tensor, count: int) -> Tensor:
    """Return (count, B, ...) images of the balls, corners and random directions among them."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(count, *origin.shape, generator=generator)
    steps[::2] = steps[::2].sign()
    found = [threat.project(origin + 10 * step, origin) for step in steps]
    return torch.stack(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5), ("l1", 1.0)])
def test_no_value_in_the_ball_leaves_its_bounds(kind: str, norm: str, eps: float) -> None:
    origin, threat = images(4), ThreatModel(norm, eps)
    network = read_network(tiny_net(kind, 0), origin)
    region = Region.around(threat, origin)
    bounds, _ = hidden_bounds(network, region)
    wide, _ = hidden_bounds(network, region, relaxed=False)
    assert all(float((bounds[relu].radius / wide[relu].radius).max()) <= 1 + 1e-6 for relu in bounds)
    assert float((bounds[network.relus[-1]].radius / wide[network.relus[-1]].radius).mean()) < 0.9
    for points in in_ball(threat, origin, 50):
        values = network.values(points)
        for relu, known in bounds.items():
            z = values[network.steps[relu].inputs[0]]
            assert bool(((z >= known.low) & (z <= known.high)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_windows_give_what_whole_rows_give(kind: str) -> None:
    """Hidden bounds again, from rows that are not cropped to receptive fields."""
    origin = images(1)
    network = read_network(tiny_net(kind, 1), origin).to(torch.float64)
    region = Region.around(ThreatModel("linf", 0.2), origin.double())
    bounds, _ = hidden_bounds(network, region)
    lines = {relu: Lines.of(known) for relu, known in bounds.items()}
    gaps = []
    for relu in network.relus[1:]:
        (source,) = network.steps[relu].inputs
        shape = network.steps[source].shape
        eye = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
        image = torch.zeros(len(eye), dtype=torch.int64)
        least = backward(network, region, Rows(eye.reshape(-1, *shape)), source, lines, image=image).bound
        low, high = bounds[relu].low.flatten(), bounds[relu].high.flatten()
        unstable = (low < 0) & (high > 0)
        gap = (low - (least - ROUNDING * torch.maximum(least.abs(), high).clamp_min(1)))[unstable]
        gaps.append(gap)
    assert len(torch.cat(gaps)) > 5
    assert float(torch.cat(gaps).min()) > -1e-4  # widened by the larger end
    assert float((torch.cat(gaps).abs() < 1e-4).double().mean()) > 0.5  # else interval arithmetic was better


class Summed(nn.Module):
    """A net whose logits are the sum of those of a hidden layer and of those of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.short = nn.Linear(9, 4), nn.Linear(4, 3), nn.Linear(9, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, 3) of images (B, 1, 3, 3)."""
        pixels = images.flatten(1)
        logits: Tensor = self.last(torch.relu(self.first(pixels))) + self.short(pixels)
        return logits


def narrow(neurons: int) -> nn.Module:
    """Return a net with so few hidden neurons that there is less to choose and to split than is tried."""
    layers = [nn.Linear(9, neurons), nn.ReLU(), nn.Linear(neurons, 3)] if neurons else [nn.Linear(9, 3)]
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize(
    ("make", "seed"), [(Summed, 0), (lambda: narrow(0), 0), (lambda: narrow(2), 2)], ids=["sum", "linear", "narrow"]
)
def test_small_nets_are_decided_as_the_exact_minimum_says(make: Callable[[], nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    net, x, threat = make().eval(), images(12, size=3), ThreatModel("linf", 0.3)
    labels = net(x).argmax(1)
    found, network = certify(net, x, labels, threat, complete=True, calls=2000), read_network(net, x)
    for position, label in enumerate(labels):
        box = Region.around(threat, x[position : position + 1]).box
        least = min(exact_minimum(network, box, row.numpy()) for row in margins(label))
        assert found.is_certified(position) == found.standing[position] == (least > 0)
    assert 0 < found.standing.sum() < 12


def margins(label: Tensor) -> Tensor:
    """Return (2, 3): of three logits the label's less each of the others'."""
    eye = torch.eye(3)
    return torch.stack([eye[label] - eye[other] for other in range(3) if other != int(label)])


def test_bounds_and_branches_against_the_exact_minimum() -> None:
    """No bound exceeds the minimum, better slopes come closer, and the search decides by its sign."""
    methods = []
    for kind, seed, eps in (("residual", 3, 0.08), ("residual", 1, 0.15), ("convolutional", 2, 0.15)):
        origin, net, threat = images(4, seed, size=3), tiny_net(kind, seed, size=3), ThreatModel("linf", eps)
        network, labels = read_network(net, origin), net(origin).argmax(1)
        certifier = Certifier(network, threat)
        for number, one in enumerate(certifier.bound(origin, labels)):
            here = origin[number : number + 1]
            least = compared_with_the_minimum(network, Region.around(threat, here), margins(labels[number]))
            found = Searched(proved=True)
            fools = fooling(net, int(labels[number]), here, threat)
            if one.method is None:
                found = certifier.search(one, Budget(calls=50_000), Noise(0, torch.tensor([number])), fools)
            assert found.proved == (least > 0)
            methods.append(one.method or ("proved" if found.proved else "broken"))
            if found.image is not None:
                assert fools(found.image)
                budget = Budget(calls=300)
                assert not certifier.search(one, budget, Noise(0, torch.tensor([number])), lambda image: False).proved
                assert budget.over  # it goes on where the model itself is not fooled
    assert {"crown", "proved", "broken"} <= set(methods)


def fooling(net: nn.Module, label: int, origin: Tensor, threat: ThreatModel) -> Callable[[Tensor], bool]:
    """Return what tells whether an image (C, H, W) in the ball around ``origin`` (1, C, H, W) is misclassified."""
    return lambda image: int(net(image[None]).argmax(1)) != label and bool(threat.contains(image[None], origin).all())


def compared_with_the_minimum(network: Network, region: Region, rows: Tensor) -> float:
    """Return the least margin on a region; bounds of each margin in ``rows`` (2, 3) are compared with its own."""
    exact = torch.tensor([exact_minimum(network, region.box, row.numpy()) for row in rows])
    bounds, _ = hidden_bounds(network, region)
    twice = torch.zeros(2, dtype=torch.int64)
    wide = {relu: Interval(known.low[twice], known.high[twice]) for relu, known in bounds.items()}
    problems = Problems.begin(region[twice], rows, wide)
    with torch.no_grad():
        plain = problems.bounded(network).bound
    _, better = improved(network, problems, steps=20, enough=float("inf"))
    assert bool((better >= plain).all())
    assert bool((better <= exact + 1e-5).all())
    assert bool((better > plain).any()) or bool(((exact - plain) < 1e-3).any())
    return float(exact.min())


@pytest.mark.parametrize(("norm", "radii"), [("linf", (0.03, 0.1)), ("l2", (0.1, 0.4)), ("l1", (0.3, 1.2))])
def test_no_attack_breaks_what_is_certified(norm: str, radii: tuple[float, float]) -> None:
    """On many nets, and neither side does nothing."""
    proved, fallen = 0, 0
    for seed in (1, 2, 3):
        net, x = tiny_net(KINDS[seed % 2], seed, size=4), images(8, seed, size=4)
        for eps in radii:
            threat = ThreatModel(norm, eps)
            bounded = certify(net, x, net(x).argmax(1), threat, complete=True, calls=500)
            attacked = evaluate(net, x, net(x).argmax(1), threat, ["pgd:steps=10", "apgd-t:steps=10"])
            certified = np.array([bounded.is_certified(position) for position in range(8)])
            assert not (certified & ~attacked.standing).any()
            assert not (certified & ~bounded.standing).any()
            proved, fallen = proved + int(certified.sum()), fallen + int((~attacked.standing).sum())
    assert proved > 10
    assert fallen > 3
