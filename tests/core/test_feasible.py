"""Steps in place within the threat model's sets, and the radii and starts that searches take from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_gkl.core.exact import NORMS
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
DUALS = {"linf": 1, "l2": 2, "l1": np.inf}
SHAPE = (2, 3, 4)
each_norm = pytest.mark.parametrize("norm", NORMS)


def draw(count: int, *, seed: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@each_norm
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_step_in_place_is_the_projected_steepest_step(norm: str, per_sample: bool) -> None:
    threat = ThreatModel(norm, {"linf": "0.1", "l2": "0.5", "l1": "2"}[norm])
    images, slopes = draw(7, seed=0), draw(7, seed=1) - 0.5
    slopes[0, 0] = 0
    points = threat.random_start(images, Noise(0, torch.arange(7)))
    length = torch.linspace(0.05, 1, 7).reshape(-1, 1, 1, 1) if per_sample else 0.3
    ahead = points + threat.steepest(slopes, points, length)
    expected = threat.project(ahead, images)
    feasible = threat.feasible_set(9, SHAPE, device=torch.device("cpu"))
    feasible.put(torch.tensor([8, 2, 5]), images[[6, 0, 3]])
    feasible.put(slice(3, 5), images[1:3])
    feasible.put(torch.tensor([6, 7]), images[4:6])
    found, gradient = points.clone(), slopes.clone()
    stepped = feasible[2:9].ascend(found, gradient, length, out=gradient)
    torch.testing.assert_close(stepped, ahead, rtol=0, atol=1e-7)
    assert stepped is gradient
    assert torch.equal(found, points)
    feasible[2:9].ascend(found, slopes.clone(), length, out=found)
    assert feasible[2:9].project_(found) is found
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.equal(found, points)


@each_norm
def test_rows_of_the_state_are_the_sets(norm: str) -> None:
    images = draw(3, seed=2)
    threat = ThreatModel(norm, "0.2")
    feasible = threat.feasible_set(3, SHAPE, device=torch.device("cpu"))
    feasible.put(slice(0, 3), images)
    for tensor in feasible.tensors:
        tensor[0] = tensor[2]
    far = images + 1
    torch.testing.assert_close(feasible[0:1].project_(far[:1].clone()), threat.project(far[:1], images[2:]))


@each_norm
def test_sphere_start_is_at_the_radius(norm: str) -> None:
    grey = torch.full((50, *SHAPE), 0.5)
    threat = ThreatModel(norm, "0.3")
    offsets = (threat.sphere_start(grey, Noise(0, torch.arange(50))) - grey).flatten(1).numpy()
    np.testing.assert_allclose(np.linalg.norm(offsets, ORDERS[norm], axis=1), 0.3, rtol=1e-5)
    assert len(np.unique(offsets[:, 0])) == 50
    images = draw(50, seed=3).round()
    start = threat.sphere_start(images, Noise(0, torch.arange(50)))
    assert bool(threat.contains(start, images).all())


@each_norm
def test_dual_length_is_the_most_that_a_step_of_length_1_rises(norm: str) -> None:
    slopes = draw(20, seed=4) - 0.5
    expected = np.linalg.norm(slopes.flatten(1).numpy(), DUALS[norm], axis=1)
    found = ThreatModel(norm, 1).dual_length(slopes)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    rise = (ThreatModel(norm, 1).steepest(slopes, torch.zeros_like(slopes), 1.0) * slopes).flatten(1).sum(1)
    assert bool((rise <= found * (1 + 1e-6)).all())


@each_norm
def test_at_the_grey_radius_black_and_white_can_be_made_grey(norm: str) -> None:
    grey, radius = torch.full((2, *SHAPE), 0.5), ThreatModel(norm, "0.1").grey_radius(SHAPE)
    assert radius == {"linf": 0.5, "l2": 0.5 * math.sqrt(24), "l1": 12.0}[norm]
    corners = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
    assert bool(ThreatModel(norm, radius).contains(grey, corners).all())
    assert not bool(ThreatModel(norm, 0.99 * radius).contains(grey, corners).any())
