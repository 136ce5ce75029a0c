"""Intervals against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustbench_gkl.results.statistics import t_quantile, wilson_interval


def test_wilson_against_scipy() -> None:
    for n in (1, 2, 7, 50, 360, 1000, 10_000):
        for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
            low, high = wilson_interval(k, n)
            assert low == pytest.approx(expected.low, abs=1e-12)
            assert high == pytest.approx(expected.high, abs=1e-12)
            assert 0 <= low <= k / n <= high <= 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 10), (11, 10), (1, -1)])
def test_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="need 0 <= successes <= n"):
        wilson_interval(k, n)


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_wilson_covers_what_it_promises(n: int) -> None:
    generator = np.random.default_rng(n)
    truth = generator.uniform(0.05, 0.95, size=20_000)
    intervals = np.array([wilson_interval(int(k), n) for k in generator.binomial(n, truth)])
    covered = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
    assert 0.94 <= covered <= 0.965


@pytest.mark.parametrize("degrees", [1, 2, 5, 30])
def test_t_quantile_against_scipy(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees))
