"""APGD's schedule, and its steps against a plain float64 version of the paper's algorithm."""

from __future__ import annotations

import pytest
import torch
from linear_model import Linear, optimum, samples
from torch import Tensor, nn

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.attacks.apgd import checkpoints
from robustbench_gkl.attacks.objectives import cross_entropy
from robustbench_gkl.attacks.sparse_apgd import sparse_sign, stage_lengths
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel


def test_checkpoints_are_those_of_the_paper() -> None:
    # p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), at ceil(p_j N)
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(1)) == [1]


def test_stages_use_all_steps() -> None:
    assert stage_lengths(100) == [(3, 30), (2, 30), (1, 40)]
    for steps in (1, 2, 3, 7):
        lengths = [length for _, length in stage_lengths(steps)]
        assert sum(lengths) == steps
        assert min(lengths) >= 0  # else the attack would not end


def test_sparse_sign_keeps_the_steepest() -> None:
    slope = torch.tensor([[[[0.1, -3.0, 2.0, 0.0, 1.0]]]])
    found = sparse_sign(slope, torch.tensor([0.4])).flatten().tolist()
    assert found == pytest.approx([0, -0.5, 0.5, 0, 0])


class _Curved(nn.Module):
    """A smooth nonlinear classifier."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(75, 12, generator=generator, dtype=torch.float64) / 4)
        self.b = nn.Parameter(torch.randn(12, 4, generator=generator, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sin(images.flatten(1) @ self.a) @ self.b


def _plain(model: nn.Module, image: Tensor, label: Tensor, start: Tensor, threat: ThreatModel, steps: int) -> Tensor:
    """APGD of one image on the cross-entropy, as in algorithm 1 of arXiv 2003.01690; returns the best point."""

    def ask(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        value = cross_entropy(model(leaf), label).sum()
        return value.item(), torch.autograd.grad(value, leaf)[0]

    eta, window_at, rises, halved = 2 * threat.radius, checkpoints(steps), 0, True
    point = previous = best = start
    value, slope = ask(point)
    best_value = checked = value
    best_slope = slope
    for step in range(1, steps + 1):
        z = threat.project(point + threat.steepest(slope, point, eta), image)
        a = 1.0 if step == 1 else 0.75
        point, previous = threat.project(point + a * (z - point) + (1 - a) * (point - previous), image), point
        last, (value, slope) = value, ask(point)
        rises += value > last
        if value > best_value:
            best, best_value, best_slope = point, value, slope
        if step in window_at:
            halve = rises <= 0.75 * window_at[step] or (not halved and checked >= best_value)
            halved, checked, rises = halve, best_value, 0
            if halve:
                eta, point, slope = eta / 2, best, best_slope
    return best


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_as_the_paper_says(norm: str) -> None:
    model = _Curved()
    images = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = model(images).argmax(1)
    threat = ThreatModel(norm, 0.001 if norm == "linf" else 0.005)  # too small to change any label
    noise = Noise(0, torch.arange(4))
    attack = parse_attack("apgd-ce:steps=60")
    found = attack(lambda x: model(x.double()), images.float(), labels, threat, noise=noise)
    draws = noise.at("apgd-ce", 0)
    direction = 2 * draws.uniform(3, 5, 5) - 1 if norm == "linf" else draws.normal(3, 5, 5)
    direction = direction.double()
    starts = images + direction * (threat.radius / threat.length(direction))[:, None, None, None]
    for row in range(4):
        one = slice(row, row + 1)
        best = _plain(model, images[one], labels[one], starts[one].clamp(0, 1), threat, 60)
        with torch.no_grad():
            points = (found[one].double(), best, images[one])
            ours, theirs, clean = (float(cross_entropy(model(point), labels[one])) for point in points)
        assert ours - clean == pytest.approx(theirs - clean, rel=2e-3)


def test_expectation_over_transformations_sees_through_noise() -> None:
    shape = (1, 6, 6)
    model = Linear(classes=3, shape=shape, seed=0)
    images = samples(5, shape, seed=1)
    labels = model(images).argmax(1)
    generator = torch.Generator().manual_seed(0)

    calls = []

    def noisy(points: Tensor) -> Tensor:
        calls.append(len(points))
        logits: Tensor = model(points + 0.02 * torch.randn(points.shape, generator=generator))
        return logits

    best = optimum(model, images, labels, "linf")
    attack = parse_attack("apgd-dlr:evaluations=20,steps=5")
    far = ThreatModel("linf", 2 * float(best.max()))
    found = attack(noisy, images, labels, far, noise=Noise(0, torch.arange(5)))
    assert bool((model(found).argmax(1) != labels).all())
    calls.clear()
    one = slice(int(best.argmax()), int(best.argmax()) + 1)
    attack(noisy, images[one], labels[one], far.with_eps(1e-6), noise=Noise(0, torch.arange(1)))
    assert sum(calls) == 1 + 20 * 5 + 1  # for the clean logits, 20 gradients a step, and the last point
