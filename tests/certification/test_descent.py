"""The attack beside branch and bound, on functions whose minima are known."""

from __future__ import annotations

import pytest
import torch
from tiny_nets import tiny_net
from torch import nn

from robustbench_gkl.certification import branching, descent
from robustbench_gkl.certification.branching import Budget
from robustbench_gkl.certification.certifier import Certifier
from robustbench_gkl.certification.crown import hidden_bounds
from robustbench_gkl.certification.descent import Points
from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.problems import Problems
from robustbench_gkl.certification.reading import read_network
from robustbench_gkl.certification.region import Region
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

NOISE = Noise(0, torch.tensor([3]))


def valleys(norm: str, eps: float) -> tuple[Network, Problems]:
    """Return a network and its margin on the ball around a gray image: the sum of a function of each of 25 pixels.

    That is 0 at a black pixel, about 1 at 0.6, and about -1 at a white one: the margin is negative where 21 are white.
    """
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(50, 2))
    weights = torch.linspace(0.9, 1.1, 25)
    slopes = torch.cat([weights / 0.6, -weights * (1 / 0.6 + 2 / 0.4)])
    weights_of_all = {"0.weight": torch.ones(2, 1, 1, 1), "3.weight": torch.stack([slopes, torch.zeros(50)])}
    net.load_state_dict(weights_of_all | {"0.bias": torch.tensor([0, -0.6]), "3.bias": torch.tensor([20.5, 0])})
    image, threat = torch.full((1, 1, 5, 5), 0.5), ThreatModel(norm, eps)
    network = read_network(net.requires_grad_(False).eval(), image)
    region = Region.around(threat, image)
    bounds, _ = hidden_bounds(network, region)
    return network, Problems.begin(region, torch.tensor([[1.0, -1.0]]), bounds)


def breaks(network: Network, problems: Problems, *, rounds: int, goes_on: bool) -> bool:
    """Return whether rounds find a negative margin, each on its own, or each from the lowest ends of those before."""
    kept = nothing = Points.none(problems)
    for number in range(rounds):
        ends = descent.search_round(network, problems, nothing, kept, NOISE.at("round", number))
        if bool((ends.margins < 0).any()):
            return True
        kept = kept.lowest(descent.KEPT, ends, apart=descent.APART) if goes_on else nothing
    return False


def test_later_rounds_put_the_lowest_ends_together() -> None:
    """A random start leads a pixel to white four times in ten, but 21 of them once in 10^5."""
    network, problems = valleys("linf", 0.5)
    assert breaks(network, problems, rounds=8, goes_on=True)
    assert not breaks(network, problems, rounds=8, goes_on=False)


def test_multipliers_between_two_steps_are_found() -> None:
    """Without a limit: coarse steps alone would make no bound of one of its parts better, for ever."""
    images = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(55))[:1]
    net = tiny_net("residual", 55, size=3)
    certifier = Certifier(read_network(net, images), ThreatModel("linf", 0.2))
    (found,) = certifier.bound(images, net(images).argmax(1))
    assert found.method is None
    assert certifier.search(found, Budget(), Noise(0, torch.tensor([0])), lambda image: False).proved


def test_branch_and_bound_keeps_the_ends_of_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sample that a model which is never fooled keeps open."""
    real, seen = descent.search_round, []

    def watched(network: Network, problems: Problems, given: Points, kept: Points, noise: Noise) -> Points:
        ends = real(network, problems, given, kept, noise)
        seen.append((kept, ends))
        return ends

    monkeypatch.setattr(descent, "search_round", watched)
    monkeypatch.setattr(branching, "ALONE", 0)
    monkeypatch.setattr(branching, "SHARE", 0)
    images = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    net = tiny_net("residual", 1, size=3)
    certifier = Certifier(read_network(net, images), ThreatModel("linf", 0.3))
    (found,) = certifier.bound(images, net(images).argmax(1))
    searched = certifier.search(found, Budget(calls=2 * descent.CALLS), NOISE, lambda image: False)
    assert searched == (False, None)
    (first, ends), (second, _) = seen[:2]
    assert not len(first.rows)
    assert second.margins.tolist() == first.lowest(descent.KEPT, ends, apart=descent.APART).margins.tolist() != []


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.5), ("l2", 2.0), ("l1", 8.0)])
def test_starts_are_put_together_of_ends_of_the_same_margin(norm: str, eps: float) -> None:
    _, problems = valleys(norm, eps)
    threat = problems.region.threat
    rows = torch.cat([problems.rows, 2 * problems.rows])[[0, 0, 1, 1]]
    images = torch.cat([threat.random_start(problems.region.origin, NOISE.at("end", number)) for number in range(4)])
    starts, theirs = descent.crossed(problems, Points(images, rows, rows[:, 0]), 64, NOISE)
    assert bool(threat.contains(starts, problems.region.origin.expand_as(starts)).all())
    assert {float(row) for row in theirs[:, 0]} == {float(row) for row in rows[:, 0]}
    if norm != "linf":
        return  # pixels move where the ball is no box
    for margin in rows[[0, 2]]:
        here = (theirs == margin).all(1)
        own, others = (images[(rows == margin).all(1) == mine] for mine in (True, False))
        of_ends = [(starts[here, None] == ends).any(1).float().mean() for ends in (own, others)]
        assert 0.6 < of_ends[0] < 1  # the rest is random
        assert of_ends[1] < 0.01
        assert bool((starts[here, None] != own).flatten(2).any(2).all())


def test_the_lowest_points_are_apart_and_not_negative() -> None:
    _, problems = valleys("linf", 0.5)
    margins = torch.tensor([0.3, 0.1, -0.1, 0.1 + 1e-7, 0.2])
    points = Points(torch.zeros(5, 1, 5, 5), problems.rows.expand(5, -1), margins)
    assert points.lowest(2, Points.none(problems), apart=1e-5).margins.tolist() == margins[[1, 4]].tolist()
    assert points.lowest(9, points).margins.tolist() == margins[[1, 1, 3, 3, 4, 4, 0, 0]].tolist()
