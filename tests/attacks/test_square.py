"""What Square Attack draws and asks about ahead, against going step by step."""

from __future__ import annotations

import time
from statistics import median
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.attacks.search import windows
from robustbench_gkl.attacks.search.driver import Driver
from robustbench_gkl.attacks.search.in_memory import _InMemory
from robustbench_gkl.attacks.search.lookahead import Lookahead
from robustbench_gkl.attacks.search.slots import Space
from robustbench_gkl.attacks.search.tasks import Task, Waiting
from robustbench_gkl.attacks.specs.square import Square
from robustbench_gkl.attacks.square import square_search
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


class _Turns(Lookahead):
    """Looks ahead by other numbers of steps in each batch."""

    def begin(self, most: int) -> int:
        self.turn = getattr(self, "turn", 0) + 1
        self.steps = min(most, (3, 1, 4, 4, 2, 7, 1, 5)[self.turn % 8])
        return self.steps


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_looking_ahead_takes_the_same_steps(norm: Norm) -> None:
    """Against a model that the attack moves for long, with slots to spare and without."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(162, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        cast(nn.Linear, model[3]).bias[0] = 2.0
    images = torch.rand(5, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    labels, threat = torch.zeros(5, dtype=torch.int64), ThreatModel(norm, EPS[norm])
    found, rows = [], []
    for slots in (5, 40):
        samples = _InMemory(model, images, labels, threat, Noise(5, torch.arange(5)), model(images))
        search = square_search(Space(slots, (2, 9, 9), 3, threat, images.device), Square(queries=120, restarts=2))
        search._lookahead = _Turns()
        driver = Driver(search, model, samples, samples, name="square")
        assert driver.run(Waiting((Task(0, position) for position in range(5)), runs=2))
        found.append(samples.candidates)
        rows.append(search._lookahead.turn)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    assert not torch.equal(found[0], images)
    assert 2 * rows[1] < rows[0]


def test_how_far_to_look_ahead_is_found_by_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes a millisecond, and a tenth of one for each step of its samples."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    chooser, chosen = Lookahead(), []
    for _ in range(50):  # as long as no slot is free
        chooser.begin(1)
        chooser.end(1.0)
    for _ in range(2000):
        chosen.append(chooser.begin(100))
        clock[0] += 1e-3 + 1e-4 * chosen[-1]
        chooser.end((1 - 0.95 ** chosen[-1]) / 0.05)
    assert median(chosen) in (16, 32)
    assert chooser.begin(5) <= 4
    assert chooser.begin(1) == 1
    slow = Lookahead()
    for _ in range(500):
        clock[0] += 1.0 * slow.begin(100)
        slow.end(slow.steps)
    assert median([slow.begin(100)]) == 1
