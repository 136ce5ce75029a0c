"""The projection onto the l1 ball within [0, 1], against a quadratic programme's optimality and a plain bisection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from robustbench_gkl.core.threat import ThreatModel


@pytest.mark.parametrize("eps", [0.05, 1.0, 12.0])
@pytest.mark.parametrize("kind", ["uniform", "binary", "sparse", "equal", "far"])
def test_nearest_point_of_ball_and_box(kind: str, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    origin = torch.rand(8, 3, 16, 16, generator=generator)
    delta = torch.randn(8, 3, 16, 16, generator=generator)
    if kind == "binary":
        origin = origin.round()
    if kind == "sparse":
        delta *= torch.rand(8, 3, 16, 16, generator=generator) > 0.97
    if kind == "equal":
        delta = 0.3 * delta.sign()
    if kind == "far":
        delta = delta**3
    found = ThreatModel("l1", eps).project(origin + delta, origin)
    assert bool(ThreatModel("l1", eps).contains(found, origin).all())
    for row in range(8):
        x, d = origin[row].double().numpy().ravel(), (origin + delta)[row].double().numpy().ravel()
        d = d - x
        room = np.where(d > 0, 1 - x, x)

        def over(t: float, d: np.ndarray = d, room: np.ndarray = room) -> float:
            return float(np.minimum(np.maximum(np.abs(d) - t, 0), room).sum()) - eps

        t = brentq(over, 0, np.abs(d).max(), xtol=1e-14) if over(0) > 0 else 0.0
        best = x + np.sign(d) * np.minimum(np.maximum(np.abs(d) - t, 0), room)
        np.testing.assert_allclose(found[row].numpy().ravel(), best, atol=1e-5 if kind == "far" else 2e-6)
