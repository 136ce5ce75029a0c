"""What Square Attack draws ahead, against drawing step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.attacks.search import windows
from robustbench_gkl.core.exact import Norm
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

EPS = {"linf": "0.05", "l2": "0.5", "l1": "4"}


def _end_points(norm: Norm, images: Tensor) -> Tensor:
    """Where 40 queries against a model that cannot be fooled end."""
    torch.manual_seed(0)
    linear = nn.Linear(images[0].numel(), 3)
    with torch.no_grad():
        linear.bias[0] = 1e3
    model = nn.Sequential(nn.Flatten(), linear)
    labels = torch.zeros(len(images), dtype=torch.int64)
    noise = Noise(5, torch.arange(len(images)))
    return parse_attack("square:queries=40")(model.eval(), images, labels, ThreatModel(norm, EPS[norm]), noise=noise)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_moves_do_not_depend_on_how_many_are_drawn_ahead(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(6, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    ahead = _end_points(norm, images)
    monkeypatch.setattr(windows, "_AHEAD", 7)
    assert torch.equal(ahead, _end_points(norm, images))
    assert not torch.equal(ahead, images)
    assert bool(ThreatModel(norm, EPS[norm]).contains(ahead, images).all())
