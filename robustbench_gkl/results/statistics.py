"""Intervals for accuracies, tests of equal accuracy, and the adjustment of many tests made at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""
SIGNIFICANCE = 0.05
"""The chance of an error that a test, or all tests of a family together, may make."""
_CELLS = 1 << 22
"""Pairs looked at together, which bounds the memory."""


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, as two numbers in [0, 1] (Wilson 1927).

    Raises:
        ValueError: n is not positive, or successes not in 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    share = successes / n
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    centre = share + Z95**2 / (2 * n)
    scale = 1 + Z95**2 / n
    # Rounding must not put the interval of 0 of n, or of n of n, beside the proportion itself.
    low = (centre - spread) / scale if successes > 0 else 0.0
    return low, (centre + spread) / scale if successes < n else 1.0


def binomial_tail(least: int, n: int, share: float) -> float:
    """Return the chance that at least ``least`` of ``n`` independent events happen, each of chance ``share``.

    The terms are summed from their logarithms: no number of events is too large for a float.
    """
    if least <= 0 or share >= 1:
        return float(least <= n)
    if share <= 0 or least > n:
        return 0.0
    log, other = math.log(share), math.log1p(-share)
    whole = math.lgamma(n + 1)
    terms = (
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log + (n - k) * other)
        for k in range(least, n + 1)
    )
    return min(1.0, math.fsum(terms))


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution with so many degrees of freedom (at least 1)."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def mcnemar_p(first_only: NDArray[np.integer], second_only: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return p-values in (0, 1] of the exact two-sided test of equal accuracy (McNemar, Psychometrika 12, 1947).

    Under equality each discordant sample falls to either side with chance 1/2, so the smaller count is binomial.

    Args:
        first_only, second_only: (...) numbers of samples on which just the first, or just the second, is right.
    """
    fewer, total = np.minimum(first_only, second_only).ravel(), np.add(first_only, second_only).ravel()
    tails = np.empty(total.shape)
    log_factorials = np.array([math.lgamma(k + 1) for k in range(int(total.max(initial=0)) + 1)])
    order = np.argsort(total)
    totals, starts = np.unique(total[order], return_index=True)
    # One sum of binomial terms serves all pairs with as many discordant samples; scipy takes longer to be imported.
    for n, alike in zip(totals.tolist(), np.split(order, starts)[1:], strict=True):
        k = np.arange(fewer[alike].max() + 1)
        log_terms = log_factorials[n] - log_factorials[k] - log_factorials[n - k] - n * math.log(2)
        tails[alike] = np.exp(log_terms).cumsum()[fewer[alike]]
    return np.asarray(np.minimum(1.0, 2 * tails).reshape(np.shape(first_only)))


def holm(p: NDArray[np.float64], counts: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
    """Return Holm's adjusted p-values in [0, 1]; those below a level hold together at this level (Holm 1979).

    Args:
        p: (k,) p-values.
        counts: (k,) how many tests have each of them; None for one each.
    """
    many = np.ones(len(p), dtype=np.int64) if counts is None else counts.astype(np.int64)
    order = np.argsort(p, kind="stable")
    before = np.cumsum(many[order]) - many[order]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((many.sum() - before) * p[order]))
    return adjusted


@dataclass(frozen=True, eq=False)
class PairedTests:
    """All pairs of models on the same samples: exact McNemar, adjusted by Holm over all pairs.

    Attributes:
        right: (m, n) float32 of 0 and 1, which samples each model gets right.
        codes: rising; each stands for the pairs with one number of discordant samples on either side.
        adjusted: the adjusted p-value of each code.
    """

    right: NDArray[np.float32]
    codes: NDArray[np.int64]
    adjusted: NDArray[np.float64]

    @classmethod
    def of(cls, standing: NDArray[np.bool_]) -> PairedTests:
        """Test all pairs of models.

        Args:
            standing: (m, n) bool, which samples of the same n each of m models gets right.
        """
        # Sums of float32 ones are exact up to 2^24 samples, and matrix products of floats are fast.
        right = standing.astype(np.float32)
        found = [
            np.unique(_code(ours, theirs)[np.arange(len(right)) > rows[:, None]], return_counts=True)
            for rows, ours, theirs in _discordant(right)
        ]
        codes, place = np.unique(np.concatenate([some for some, _ in found]), return_inverse=True)
        counts = np.zeros(len(codes), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([many for _, many in found]))
        return cls(right, codes, holm(mcnemar_p(codes >> 32, codes & 0xFFFFFFFF), counts))

    def ranks(self) -> NDArray[np.int64]:
        """Return (m,) ranks: 1 + the number of models that are significantly better."""
        # Of a number of discordant samples p rises with the smaller count, so that a limit on this count decides.
        limit = np.full(self.right.shape[1] + 1, -1)
        codes = self.codes[self.adjusted < SIGNIFICANCE]
        fewer, more = codes >> 32, codes & 0xFFFFFFFF
        np.maximum.at(limit, fewer + more, fewer)
        ranks = np.ones(len(self.right), dtype=np.int64)
        for rows, ours, theirs in _discordant(self.right):
            ranks[rows] += np.sum((theirs > ours) & (ours <= limit[ours + theirs]), axis=1)
        return ranks

    def adjusted_p(self, first: int, second: int) -> float:
        """Return the adjusted p-value of two models by their positions in 0..m-1; 1 of a model and itself."""
        if first == second:
            return 1.0
        one, other = self.right[first], self.right[second]
        code = _code(np.array([np.sum(one > other)]), np.array([np.sum(other > one)]))
        return float(self.adjusted[np.searchsorted(self.codes, code)][0])


_Block = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]


def _discordant(right: NDArray[np.float32]) -> Iterator[_Block]:
    """Yield some rows (b,) at a time and, for each with all m, what it alone has and what it alone lacks: (b, m)."""
    total = right.sum(axis=1)
    step = max(1, _CELLS // max(1, len(right)))
    for start in range(0, len(right), step):
        rows = np.arange(start, min(start + step, len(right)))
        both = right[rows] @ right.T
        yield rows, (total[rows, None] - both).astype(np.int32), (total - both).astype(np.int32)


def _code(ours: NDArray[np.integer], theirs: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the smaller count and the larger one as one number."""
    return np.asarray(np.left_shift(np.minimum(ours, theirs), 32, dtype=np.int64) | np.maximum(ours, theirs))


@dataclass(frozen=True)
class SeedMean:
    """The mean accuracy of trainings that differ in the seed.

    Attributes:
        mean: in percent.
        variance: of one training, in squared points; no less than that of rounding to one sample, since accuracies
            are whole samples: two that agree do not show that the seed has no effect.
        seeds: how many, at least 2.
    """

    mean: float
    variance: float
    seeds: int

    @classmethod
    def of(cls, accuracies: Sequence[float], *, n: int) -> SeedMean:
        """Return the mean of accuracies in percent, each measured on ``n`` samples."""
        rounding = (100 / n) ** 2 / 12
        return cls(float(np.mean(accuracies)), max(float(np.var(accuracies, ddof=1)), rounding), seeds=len(accuracies))

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the mean over seeds by Student's t, in percent within [0, 100]."""
        half = t_quantile(self.seeds - 1) * math.sqrt(self.variance / self.seeds)
        return max(0.0, self.mean - half), min(100.0, self.mean + half)


def welch_p(first: SeedMean, second: SeedMean) -> float:
    """Return the two-sided p-value in [0, 1] of equal means by Welch's t test (Welch, Biometrika 34, 1947)."""
    from scipy.special import stdtr

    one, other = first.variance / first.seeds, second.variance / second.seeds
    degrees = (one + other) ** 2 / (one**2 / (first.seeds - 1) + other**2 / (second.seeds - 1))
    return float(2 * stdtr(degrees, -abs(first.mean - second.mean) / math.sqrt(one + other)))


def ranks_by_welch(means: Sequence[SeedMean]) -> list[int]:
    """Return ranks: 1 + the number of means that are significantly higher, by Welch's t with Holm over all pairs."""
    pairs = [(i, j) for i in range(len(means)) for j in range(i)]
    adjusted = holm(np.array([welch_p(means[i], means[j]) for i, j in pairs], dtype=np.float64))
    ranks = [1] * len(means)
    for (i, j), p in zip(pairs, adjusted.tolist(), strict=True):
        if p < SIGNIFICANCE:
            ranks[i if means[i].mean < means[j].mean else j] += 1
    return ranks
