"""The projections onto hyperplanes, against a linear programme, a scalar root finder and the constraints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog

from robustbench_gkl.attacks.hyperplane import Hyperplanes
from robustbench_gkl.core.exact import Norm


def _problem(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(12, 40, generator=generator)
    if kind == "binary":
        points = points.round()
    normal = torch.randn(12, 40, generator=generator)
    if kind == "sparse":
        normal *= torch.rand(12, 40, generator=generator) > 0.7
    reach = normal.abs().sum(1)
    offset = reach * torch.linspace(-0.3, 0.3, 12)
    return points, normal, offset


def _step(normal: torch.Tensor, points: torch.Tensor, offset: torch.Tensor, norm: Norm) -> torch.Tensor:
    planes = Hyperplanes(normal, norm=norm)
    return -offset.sign()[:, None] * planes.sign * planes.amounts([points], offset[None])[0]


def _shortest(points: np.ndarray, normal: np.ndarray, offset: float, norm: str) -> float:
    """The length of the shortest step, in float64."""
    sign = -np.sign(offset) * np.sign(normal)
    room = np.where(sign > 0, 1 - points, points) * (normal != 0)
    size, target = np.abs(normal), abs(offset)
    if norm == "l1":
        found = linprog(
            np.ones_like(size), A_eq=size[None], b_eq=[target], bounds=np.stack([np.zeros_like(room), room], 1)
        )
        return float(found.fun)
    scale = np.ones_like(size) if norm == "linf" else size

    def missing(level: float) -> float:
        return float((size * np.minimum(level * scale, room)).sum() - target)

    level = brentq(missing, 0, 1e3)
    step = np.minimum(level * scale, room)
    return float(step.max() if norm == "linf" else np.sqrt((step**2).sum()))


@pytest.mark.parametrize("kind", ["dense", "sparse", "binary"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_shortest_step_within_the_box(norm: Norm, kind: str) -> None:
    points, normal, offset = _problem(kind)
    step = _step(normal, points, offset, norm)
    moved = points + step
    assert float(moved.min()) >= -1e-6
    assert float(moved.max()) <= 1 + 1e-6
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    for row in range(len(points)):
        room = torch.where(normal[row] * offset[row] > 0, points[row], 1 - points[row])
        if float((normal[row].abs() * room).sum()) <= abs(float(offset[row])):
            continue  # out of reach
        left = float(offset[row] + (normal[row] * step[row]).sum())
        assert left == pytest.approx(0, abs=2e-5 * float(normal[row].abs().sum()))
        best = _shortest(points[row].double().numpy(), normal[row].double().numpy(), float(offset[row]), norm)
        assert float(np.linalg.norm(step[row].double().numpy(), order)) == pytest.approx(best, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_out_of_reach_goes_to_the_nearest_corner(norm: Norm) -> None:
    points, normal, _ = _problem("dense")
    step = _step(normal, points, torch.full((12,), 1e4), norm)
    torch.testing.assert_close(points + step, (normal < 0).float())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_flat_gradient_moves_nothing(norm: Norm) -> None:
    points = torch.rand(2, 5)
    step = _step(torch.zeros(2, 5), points, torch.ones(2), norm)
    assert torch.equal(step, torch.zeros(2, 5))
