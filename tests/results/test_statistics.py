"""Intervals and tests against scipy's, Holm by hand, ranks by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustbench_gkl.results import statistics
from robustbench_gkl.results.statistics import (
    PairedTests,
    SeedMean,
    binomial_tail,
    holm,
    mcnemar_p,
    ranks_by_welch,
    t_quantile,
    welch_p,
    wilson_interval,
)


def test_binomial_tail_against_scipy() -> None:
    for n in (1, 2, 7, 50, 360, 10_000):
        for least in sorted({0, 1, n // 100 + 1, n // 2, n, n + 1}):
            for share in (0.0, 1e-3, 0.01, 0.1, 0.5, 0.97, 1.0):
                expected = stats.binom.sf(least - 1, n, share)
                assert binomial_tail(least, n, share) == pytest.approx(expected, rel=1e-9, abs=1e-300)


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


def test_mcnemar_of_many_pairs_is_the_exact_binomial_test() -> None:
    generator = np.random.default_rng(0)
    first = np.concatenate([np.arange(12).repeat(12), generator.integers(0, 5000, 300), [0, 3000, 5000]])
    second = np.concatenate([np.tile(np.arange(12), 12), generator.integers(0, 5000, 300), [4000, 0, 5000]])
    expected = [
        stats.binomtest(int(a), int(a + b), 0.5).pvalue if a + b else 1.0 for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(mcnemar_p(first, second), expected, rtol=1e-9, atol=1e-280)  # scipy has 0 for less


def test_holm_by_hand() -> None:
    # 4 x .01, then 3 x .015 = .045, 2 x .02 = .04 (not below the one before), 1 x .5.
    np.testing.assert_allclose(holm(np.array([0.5, 0.01, 0.02, 0.015])), [0.5, 0.04, 0.045, 0.045])
    np.testing.assert_allclose(holm(np.array([0.4, 0.6])), [0.8, 0.8])
    assert holm(np.array([])).shape == (0,)


def test_holm_of_counted_values_is_holm_of_all() -> None:
    generator = np.random.default_rng(0)
    values, counts = generator.random(7) / 10, generator.integers(1, 5, 7)
    every = holm(values.repeat(counts))
    np.testing.assert_allclose(holm(values, counts).repeat(counts), every)


def by_pairs(standing: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return ranks and adjusted p-values pair by pair, without any shortcut."""
    m = len(standing)
    pairs = [(i, j) for i in range(m) for j in range(i + 1, m)]
    p = []
    for i, j in pairs:
        first, second = int((standing[i] & ~standing[j]).sum()), int((standing[j] & ~standing[i]).sum())
        p.append(stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0)
    adjusted = np.ones((m, m))
    largest = 0.0
    for step, place in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - step) * p[place]))
        adjusted[pairs[place]] = adjusted[pairs[place][::-1]] = largest
    ahead = standing.sum(1)[None, :] > standing.sum(1)[:, None]
    return (1 + ((adjusted < 0.05) & ahead).sum(1)).tolist(), adjusted


@pytest.mark.parametrize("cells", [1 << 22, 7], ids=["at once", "in blocks"])
def test_ranks_are_those_of_all_pairs(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CELLS", cells)
    generator = np.random.default_rng(0)
    for m, n in ((1, 9), (2, 30), (12, 61), (15, 200)):
        standing = generator.random((m, n)) < np.linspace(0.2, 0.9, m)[:, None]
        standing[m // 2] = standing[0]  # equal outcomes are pairs like all others
        tests = PairedTests.of(standing)
        ranks, adjusted = by_pairs(standing)
        assert tests.ranks().tolist() == ranks
        found = [[tests.adjusted_p(i, j) for j in range(m)] for i in range(m)]
        np.testing.assert_allclose(found, adjusted, rtol=1e-9)


@pytest.mark.parametrize("shared", [0.0, 0.8], ids=["independent", "correlated"])
def test_equal_models_are_rarely_split(shared: float) -> None:
    """Of 20 equal models no two may get different ranks in more than 5 % of boards, within the simulation's error."""
    generator = np.random.default_rng(1)
    boards, models, n = 600, 20, 300
    split = 0
    for _ in range(boards):
        common, own = generator.random(n) < 0.5, generator.random((models, n)) < 0.5
        standing = np.where(generator.random((models, n)) < shared, common, own)
        split += int(PairedTests.of(standing).ranks().max() > 1)
    assert split <= boards * 0.05 + 3 * np.sqrt(boards * 0.05 * 0.95)


def test_welch_against_scipy() -> None:
    generator = np.random.default_rng(0)
    for first, second in ((2, 2), (3, 5), (9, 4)):
        one, other = 50 + 3 * generator.standard_normal(first), 52 + generator.standard_normal(second)
        expected = stats.ttest_ind(one, other, equal_var=False).pvalue
        mean = SeedMean.of(one.tolist(), n=1000)
        assert welch_p(mean, SeedMean.of(other.tolist(), n=1000)) == pytest.approx(expected)
        low, high = mean.interval()
        assert (low, high) == pytest.approx(stats.t.interval(0.95, first - 1, np.mean(one), stats.sem(one)))


def test_seeds_that_agree_are_no_proof() -> None:
    same, other = SeedMean.of([50.0, 50.0], n=100), SeedMean.of([50.0, 50.0], n=100)
    assert welch_p(same, other) == 1.0
    low, high = same.interval()
    assert low < 50 < high
    assert welch_p(same, SeedMean.of([51.0, 51.0], n=100)) > 0.01
    assert welch_p(same, SeedMean.of([90.0, 90.0], n=100)) < 0.01


def test_ranks_of_means() -> None:
    means = [SeedMean.of(values, n=1000) for values in ([50.0, 51, 52], [70.0, 71, 72], [50.5, 51.5, 52.5])]
    assert ranks_by_welch(means) == [2, 1, 2]
    assert ranks_by_welch(means[:1]) == [1]
    assert ranks_by_welch([]) == []
