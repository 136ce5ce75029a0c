"""The geometry of the threat models against optimisers, closed forms and distributions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import NORMS, format_fraction, parse_fraction
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
DUAL_ORDERS = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
RADII = {"linf": "0.1", "l2": "0.5", "l1": "2"}

each_norm = pytest.mark.parametrize("norm", NORMS)


def cloud(
    *, batch: int = 20, shape: tuple[int, ...] = (1, 3, 4), spread: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return origins in [0, 1], some of them on its edges, and points around them, in float64."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.rand(batch, *shape, generator=generator, dtype=torch.float64)
    origin = ((origin - 0.5) * 1.3 + 0.5).clamp(0, 1)
    points = origin + spread * torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    return points, origin


def lengths(delta: Tensor, norm: str) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(delta.flatten(1), ORDERS[norm], dim=1)
    return found


class TestParsing:
    @pytest.mark.parametrize(
        ("given", "exact"),
        [
            ("8/255", Fraction(8, 255)),
            (" 8/255 ", Fraction(8, 255)),
            ("0.3", Fraction(3, 10)),
            ("1e-3", Fraction(1, 1000)),
            (0.3, Fraction(3, 10)),
            (8 / 255, Fraction(8, 255)),
            (np.float64(8 / 255), Fraction(8, 255)),
            (np.float64(0.3), Fraction(3, 10)),
            (np.int64(1), Fraction(1)),
            (0, Fraction(0)),
            (0.031, Fraction(31, 1000)),
            (Fraction(1, 7), Fraction(1, 7)),
        ],
    )
    def test_exact(self, given: str | float | Fraction, exact: Fraction) -> None:
        assert parse_fraction(given) == exact
        assert ThreatModel("linf", given).eps == exact

    def test_0_031_is_not_8_255(self) -> None:
        assert ThreatModel("linf", "0.031") != ThreatModel("linf", "8/255")
        assert ThreatModel("linf", 8 / 255) == ThreatModel("linf", "8/255")
        assert len({ThreatModel("linf", "8/255"), ThreatModel("linf", 8 / 255), ThreatModel("l2", "8/255")}) == 2

    @pytest.mark.parametrize(
        ("value", "text"),
        [("8/255", "8/255"), ("0.30", "0.3"), ("51/255", "0.2"), ("2/510", "1/255"), ("1/7", "1/7"), ("0", "0")],
    )
    def test_usual_spelling(self, value: str, text: str) -> None:
        assert format_fraction(parse_fraction(value)) == text
        assert str(ThreatModel("l2", value)) == f"l2 {text}"

    def test_format_and_parse_are_inverse(self) -> None:
        values = [Fraction(p, q) for p, q in itertools.product(range(40), range(1, 300, 7))]
        values += [Fraction(k, 255) for k in range(256)]
        values += [Fraction(1234567, 10**9), Fraction(1, 10**12), Fraction(2**70 + 1, 2**60), Fraction(10**20)]
        for value in values:
            assert parse_fraction(format_fraction(value)) == value

    def test_each_float_of_a_grey_level_is_that_level(self) -> None:
        for level in range(256):
            assert parse_fraction(level / 255) == Fraction(level, 255)

    @pytest.mark.parametrize(
        ("norm", "eps", "says"),
        [
            ("linf", 8, r"\[0, 1\] image scale .* 8/255"),
            ("linf", "8.5", r"\[0, 1\] image scale .* 1/30$"),
            ("linf", 300, r"\[0, 1\] image scale .* got 300$"),
            ("linf", "256/255", r"\[0, 1\] image scale"),
            ("linf", "-8/255", "negative"),
            ("l2", -0.5, "negative"),
            ("linf", float("nan"), "must be a number"),
            ("l2", float("inf"), "must be a number"),
            ("l2", "1e400", "must be a number"),
            ("l2", "1e999999999", "must be a number"),
            ("l2", "1e-999999999", "must be a number"),
            ("linf", "nan", "must be a number"),
            ("linf", "eight", "must be a number"),
            ("linf", "", "must be a number"),
            ("linf", "8/0", "must be a number"),
            ("linf", "8//255", "must be a number"),
            ("linf", None, "must be a number"),
            ("linf", [1], "must be a number"),
            ("linf", True, "must be a number"),
            ("lin", "0.1", "unknown norm 'lin'; did you mean 'linf'"),
            ("L3", "0.1", "unknown norm 'L3'"),
        ],
    )
    def test_errors(self, norm: str, eps: str, says: str) -> None:
        with pytest.raises(UserError, match=says) as caught:
            ThreatModel(norm, eps)
        assert "\n" not in str(caught.value)

    def test_l2_and_l1_radii_may_exceed_1(self) -> None:
        assert ThreatModel("l1", 12).radius == 12
        assert ThreatModel("l2", "0.5").with_eps(3).eps == 3


@each_norm
@pytest.mark.parametrize("spread", [0.05, 0.5, 5.0])
class TestProjection:
    def test_feasible(self, norm: str, spread: float) -> None:
        threat = ThreatModel(norm, RADII[norm])
        points, origin = cloud(spread=spread)
        found = threat.project(points, origin)
        assert bool((lengths(found - origin, norm) <= threat.radius + 1e-12).all())
        assert 0 <= float(found.min()) <= float(found.max()) <= 1

    def test_twice_is_once(self, norm: str, spread: float) -> None:
        threat = ThreatModel(norm, RADII[norm])
        points, origin = cloud(spread=spread)
        once = threat.project(points, origin)
        torch.testing.assert_close(threat.project(once, origin), once, rtol=0, atol=1e-12)

    def test_inside_stays(self, norm: str, spread: float) -> None:
        threat = ThreatModel(norm, RADII[norm])
        points, origin = cloud(spread=spread)
        inside = threat.with_eps(threat.eps / 2).project(points, origin)
        for dtype in (torch.float64, torch.float32):
            assert torch.equal(threat.project(inside.to(dtype), origin.to(dtype)), inside.to(dtype))


@each_norm
def test_projection_with_radius_0_is_the_origin(norm: str) -> None:
    points, origin = cloud(spread=1.0)
    torch.testing.assert_close(ThreatModel(norm, 0).project(points, origin), origin, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_projection_is_the_nearest_feasible_image(norm: str, spread: float) -> None:
    """A quadratic programme says where the nearest image of the ball and the range is."""
    threat = ThreatModel(norm, RADII[norm])
    points, origin = cloud(batch=8, spread=spread)
    found = threat.project(points, origin).flatten(1).numpy()
    for point, start, ours in zip(points.flatten(1).numpy(), origin.flatten(1).numpy(), found, strict=True):
        nearest = quadratic_programme(point, start, norm=norm, eps=threat.radius)
        np.testing.assert_allclose(ours, nearest, atol=2e-6)


def quadratic_programme(point: np.ndarray, start: np.ndarray, *, norm: str, eps: float) -> np.ndarray:
    """Return the image in [0, 1] and the ball around ``start`` that is nearest to ``point``."""
    d = len(point)
    if norm == "linf":
        bounds = list(zip(np.maximum(0, start - eps), np.minimum(1, start + eps), strict=True))
        solved = optimize.minimize(
            lambda x: (0.5 * np.sum((x - point) ** 2), x - point), start, jac=True, bounds=bounds, tol=1e-14
        )
        return np.asarray(solved.x)
    # x = start + up - down with up, down >= 0 makes the l1 ball one linear constraint.
    signs = np.concatenate([np.eye(d), -np.eye(d)], axis=1)

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        gap = start + signs @ parts - point
        return 0.5 * float(gap @ gap), signs.T @ gap

    solved = optimize.minimize(
        objective,
        np.zeros(2 * d),
        jac=True,
        method="SLSQP",
        bounds=[(0, room) for room in np.concatenate([1 - start, start])],
        constraints={"type": "ineq", "fun": lambda parts: eps - parts.sum(), "jac": lambda parts: -np.ones(2 * d)},
        options={"maxiter": 1000, "ftol": 1e-16},
    )
    return np.asarray(start + signs @ solved.x)


def bisected_l1_projection(point: np.ndarray, start: np.ndarray, *, eps: float) -> np.ndarray:
    """Return the projection by bisection on the multiplier of the l1 constraint."""
    delta = point - start
    room = np.where(delta > 0, 1 - start, start)

    def moved(threshold: float) -> np.ndarray:
        return np.asarray(np.minimum(np.maximum(np.abs(delta) - threshold, 0), room))

    threshold = 0.0
    if moved(0.0).sum() > eps:
        threshold = optimize.brentq(lambda t: moved(t).sum() - eps, 0, np.abs(delta).max(), xtol=1e-16, rtol=1e-15)
    return np.asarray(start + np.sign(delta) * moved(threshold))


@pytest.mark.parametrize("eps", ["0", "1e-6", "0.5", "12", "100"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (3, 32, 32)])
def test_l1_projection_against_bisection(shape: tuple[int, ...], eps: str) -> None:
    points, origin = cloud(batch=6, shape=shape, spread=0.4)
    found = ThreatModel("l1", eps).project(points, origin).flatten(1).numpy()
    for point, start, ours in zip(points.flatten(1).numpy(), origin.flatten(1).numpy(), found, strict=True):
        np.testing.assert_allclose(ours, bisected_l1_projection(point, start, eps=float(eps)), atol=1e-12)


def test_l1_projection_with_ties() -> None:
    """Equal moves share the radius; where one has no room, the others get its share."""
    threat = ThreatModel("l1", 1)
    origin = torch.full((2, 1, 1, 4), 0.5, dtype=torch.float64)
    origin[1, ..., 0] = 1.0
    found = threat.project(origin + 0.5, origin) - origin
    torch.testing.assert_close(found[0].flatten(), torch.full((4,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(found[1].flatten(), torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64))


def test_l1_projection_of_a_large_image_in_float32() -> None:
    """The radius is used up to float32 rounding, though 150,528 numbers are summed."""
    points, origin = cloud(batch=2, shape=(3, 224, 224), spread=0.3)
    threat = ThreatModel("l1", 60)
    found = threat.project(points.float(), origin.float())
    used = lengths(found.double() - origin.float().double(), "l1")
    torch.testing.assert_close(used, torch.full_like(used, 60), rtol=0, atol=2e-4)
    exact = threat.project(points.float().double(), origin.float().double())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-7)


def test_l2_projection_keeps_the_direction() -> None:
    points, origin = cloud(spread=0.5)
    origin = 0.5 + 0.01 * (origin - 0.5)
    found = ThreatModel("l2", "0.1").project(points, origin) - origin
    asked = points - origin
    expected = asked / lengths(asked, "l2").reshape(-1, 1, 1, 1) * 0.1
    torch.testing.assert_close(found, expected)


@each_norm
def test_distance(norm: str) -> None:
    points, origin = cloud(spread=1.0)
    torch.testing.assert_close(ThreatModel(norm, 1).distance(points, origin), lengths(points - origin, norm))


class TestSteepest:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_attains_the_dual_norm(self, norm: str) -> None:
        gradient, images = cloud(spread=1.0)
        step = ThreatModel(norm, "0.1").steepest(gradient, images, 0.03)
        gain = (step * gradient).flatten(1).sum(1)
        dual = torch.linalg.vector_norm(gradient.flatten(1), DUAL_ORDERS[norm], dim=1)
        torch.testing.assert_close(gain, 0.03 * dual)
        torch.testing.assert_close(lengths(step, norm), torch.full_like(gain, 0.03))

    @pytest.mark.parametrize("length", [0.0, 0.3, 2.0, 100.0])
    def test_l1_attains_the_linear_programme(self, length: float) -> None:
        """Maximise gradient . (up - down) over up, down in the room that [0, 1] leaves, with sum at most length."""
        gradient, images = cloud(batch=8, spread=1.0)
        step = ThreatModel("l1", 1).steepest(gradient, images, length)
        moved = images + step
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
        assert bool((lengths(step, "l1") <= length + 1e-12).all())
        gain = (step * gradient).flatten(1).sum(1)
        for slope, start, ours in zip(gradient.flatten(1).numpy(), images.flatten(1).numpy(), gain, strict=True):
            solved = optimize.linprog(
                np.concatenate([-slope, slope]),
                A_ub=np.ones((1, 2 * len(slope))),
                b_ub=[length],
                bounds=[(0, room) for room in np.concatenate([1 - start, start])],
            )
            assert float(ours) == pytest.approx(-solved.fun, abs=1e-9)

    @each_norm
    def test_a_length_per_sample(self, norm: str) -> None:
        gradient, images = cloud(batch=3, spread=1.0)
        threat = ThreatModel(norm, "0.1")
        each = torch.tensor([0.01, 0.02, 0.4], dtype=torch.float64)
        together = threat.steepest(gradient, images, each.reshape(-1, 1, 1, 1))
        for row, length in enumerate(each.tolist()):
            alone = threat.steepest(gradient[row : row + 1], images[row : row + 1], length)
            torch.testing.assert_close(together[row : row + 1], alone)

    @each_norm
    def test_no_slope_no_step(self, norm: str) -> None:
        images = torch.rand(2, 1, 2, 2)
        assert not ThreatModel(norm, "0.1").steepest(torch.zeros_like(images), images, 0.1).any()

    @each_norm
    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_slopes_of_any_size_in_float32(self, norm: str, scale: float) -> None:
        """The slopes of a confident model are so small that their squares are 0 in float32."""
        gradient, images = (tensor.float() for tensor in cloud(spread=1.0))
        threat = ThreatModel(norm, "0.1")
        plain = threat.steepest(gradient, images, 0.1)
        torch.testing.assert_close(threat.steepest(gradient * scale, images, 0.1), plain, rtol=1e-5, atol=1e-7)


class TestRandomStart:
    N = 4000
    SHAPE = (1, 2, 3)

    def offsets(self, norm: str) -> np.ndarray:
        """Return (N, 6) offsets from grey images, divided by the radius, which is small enough for no clamping."""
        images = torch.full((self.N, *self.SHAPE), 0.5, dtype=torch.float64)
        start = ThreatModel(norm, "0.25").random_start(images, Noise(7, torch.arange(self.N)))
        return np.asarray((start - images).flatten(1).numpy()) / 0.25

    @each_norm
    def test_in_the_ball_and_the_range(self, norm: str) -> None:
        images = torch.rand(500, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round(decimals=1)
        threat = ThreatModel(norm, RADII[norm])
        assert bool(threat.contains(threat.random_start(images, Noise(0, torch.arange(500))), images).all())

    @each_norm
    def test_radius_is_distributed_as_in_a_uniform_ball(self, norm: str) -> None:
        """In d dimensions a share r^d of a ball of any norm lies within r."""
        offsets = self.offsets(norm)
        radius = np.linalg.norm(offsets, ORDERS[norm], axis=1)
        assert stats.kstest(radius ** offsets.shape[1], "uniform").pvalue > 0.01

    def test_linf_pixels_are_uniform(self) -> None:
        for pixel in self.offsets("linf").T:
            assert stats.kstest(pixel, "uniform", args=(-1, 2)).pvalue > 0.001

    def test_l2_pixels(self) -> None:
        """A coordinate x of a uniform point in the d-ball has (x + 1) / 2 ~ Beta((d + 1) / 2, (d + 1) / 2)."""
        for pixel in self.offsets("l2").T:
            assert stats.kstest((pixel + 1) / 2, "beta", args=(3.5, 3.5)).pvalue > 0.001

    def test_l1_pixels(self) -> None:
        """|x| of a uniform point in the d-dimensional l1 ball is Beta(1, d), and its sign a coin."""
        for pixel in self.offsets("l1").T:
            assert stats.kstest(np.abs(pixel), "beta", args=(1, 6)).pvalue > 0.001
            assert stats.binomtest(int((pixel > 0).sum()), self.N).pvalue > 0.001

    @each_norm
    def test_radius_0_is_the_image(self, norm: str) -> None:
        images = torch.rand(5, 1, 4, 4)
        assert torch.equal(ThreatModel(norm, 0).random_start(images, Noise(0, torch.arange(5))), images)


class TestContains:
    @each_norm
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
    @pytest.mark.parametrize("scale", ["1/10", "1", "3"])
    def test_what_float32_puts_on_the_ball_is_inside(self, norm: str, shape: tuple[int, ...], scale: str) -> None:
        eps = {"linf": Fraction(8, 255), "l2": Fraction(1, 2), "l1": Fraction(12)}[norm] * Fraction(scale)
        threat = ThreatModel(norm, eps)
        points, origin = (tensor.float() for tensor in cloud(batch=200, shape=shape, spread=1.0))
        assert bool(threat.contains(threat.project(points, origin), origin).all())

    @each_norm
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 224, 224)])
    def test_a_thousandth_beyond_is_outside(self, norm: str, shape: tuple[int, ...]) -> None:
        """At the smallest radii in use."""
        eps = {"linf": "1/510", "l2": "0.25", "l1": {8: "4", 32: "12", 224: "60"}[shape[1]]}[norm]
        threat = ThreatModel(norm, eps)
        origin = torch.full((2, *shape), 0.5)
        towards = torch.randn(origin.shape, generator=torch.Generator().manual_seed(0))
        delta = (towards / lengths(towards, norm).reshape(-1, 1, 1, 1)).double() * threat.radius
        assert bool(threat.contains((origin + delta).float(), origin).all())
        assert not bool(threat.contains((origin + 1.001 * delta).float(), origin).any())

    @each_norm
    def test_nan_infinity_and_the_range(self, norm: str) -> None:
        threat = ThreatModel(norm, RADII[norm])
        origin = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5, 0.5]).reshape(6, 1, 1, 1).repeat(1, 1, 2, 2)
        images = origin.clone()
        for row, value in enumerate((-1e-6, 1 + 1e-6, float("nan"), float("inf"), -float("inf"), 0.51)):
            images[row, 0, 0, 0] = value
        assert threat.contains(images, origin).tolist() == [False] * 5 + [True]

    @each_norm
    def test_radius_0(self, norm: str) -> None:
        origin = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.9
        assert bool(ThreatModel(norm, 0).contains(origin, origin).all())
        assert not bool(ThreatModel(norm, 0).contains(origin + 1e-4, origin).any())


@pytest.mark.cuda
@each_norm
def test_cuda_agrees_with_cpu(norm: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    threat = ThreatModel(norm, RADII[norm])
    points, origin = cloud(spread=0.5)
    there = threat.project(points.cuda(), origin.cuda())
    torch.testing.assert_close(there.cpu(), threat.project(points, origin))
    assert bool(threat.contains(there.float(), origin.cuda().float()).all())
    step = threat.steepest(points.cuda(), origin.cuda(), 0.1)
    torch.testing.assert_close(step.cpu(), threat.steepest(points, origin, 0.1))
