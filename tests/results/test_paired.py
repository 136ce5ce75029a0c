"""The paired test against scipy, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from robustbench_gkl.results.paired import PairedCounts


@pytest.mark.parametrize(("first", "second"), [*itertools.product([0, 1, 3, 10, 40, 700], repeat=2)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    counts = PairedCounts(50, first, second, 20)
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert counts.p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_is_what_enumeration_gives() -> None:
    b, c = 2, 7
    outcomes = [sum(tosses) for tosses in itertools.product([0, 1], repeat=b + c)]
    as_extreme = np.mean([abs(2 * heads - (b + c)) >= abs(b - c) for heads in outcomes])
    assert PairedCounts(5, b, c, 5).p_value == pytest.approx(as_extreme)


def test_counts_of_arrays() -> None:
    first = np.array([True, True, False, False, True])
    second = np.array([True, False, True, False, False])
    counts = PairedCounts.of(first, second)
    assert counts == PairedCounts(both=1, first_only=2, second_only=1, neither=1)
    assert counts.difference == pytest.approx(first.mean() - second.mean())
    with pytest.raises(ValueError, match="one length"):
        PairedCounts.of(first, second[:3])


def test_newcombe_reproduces_the_published_example() -> None:
    # Statistics in Medicine 17:2635, table II, cells 36, 12, 2, 0.
    counts = PairedCounts(both=36, first_only=12, second_only=2, neither=0)
    low, high = counts.interval()
    assert counts.difference == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=2e-4)


def test_the_interval_covers_and_the_needed_samples_suffice() -> None:
    generator = np.random.default_rng(0)
    chances = np.array([0.45, 0.12, 0.05, 0.38])
    truth = chances[1] - chances[2]
    covered = [
        low <= truth <= high
        for low, high in (PairedCounts(*draw).interval() for draw in generator.multinomial(400, chances, size=2000))
    ]
    assert 0.94 <= np.mean(covered) <= 0.97
    planned = PairedCounts(450, 120, 50, 380).samples_needed()
    assert planned is not None
    shown = [PairedCounts(*draw).significant for draw in generator.multinomial(planned, chances, size=1000)]
    assert 0.74 <= np.mean(shown) <= 0.86


def test_equal_models_need_no_samples() -> None:
    counts = PairedCounts(10, 3, 3, 4)
    assert counts.samples_needed() is None
    assert counts.p_value == 1
    low, high = counts.interval()
    assert low < 0 < high
