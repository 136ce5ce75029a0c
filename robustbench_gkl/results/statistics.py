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
    from scipy.special import betainc

    fewer = np.minimum(first_only, second_only).astype(np.float64)
    more = np.maximum(first_only, second_only).astype(np.float64)
    # P(X <= k) of Binomial(k + m, 1/2) is the incomplete beta function I_{1/2}(m, k + 1), which needs m > 0.
    half = betainc(np.maximum(more, 1), fewer + 1, 0.5)
    return np.asarray(np.where(more > 0, np.minimum(1.0, 2 * half), 1.0))


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
        distinct: (u, n) float32 of 0 and 1, the distinct outcomes.
        which: (m,) the row of ``distinct`` that a model has.
        codes: rising; each stands for the pairs with one number of discordant samples on either side.
        adjusted: the adjusted p-value of each code.
    """

    distinct: NDArray[np.float32]
    which: NDArray[np.integer]
    codes: NDArray[np.int64]
    adjusted: NDArray[np.float64]

    @classmethod
    def of(cls, standing: NDArray[np.bool_]) -> PairedTests:
        """Test all pairs of models.

        Args:
            standing: (m, n) bool, which samples of the same n each of m models gets right.
        """
        packed, which, many = np.unique(np.packbits(standing, axis=1), axis=0, return_inverse=True, return_counts=True)
        # Sums of float32 ones are exact up to 2^24 samples, and matrix products of floats are fast.
        distinct = np.unpackbits(packed, axis=1, count=standing.shape[1]).astype(np.float32)
        found: dict[int, int] = {0: int((many * (many - 1) // 2).sum())}
        for rows, ours, theirs in _discordant(distinct):
            upper = np.arange(len(distinct)) > rows[:, None]
            codes, place = np.unique(_code(ours, theirs)[upper], return_inverse=True)
            weights = np.multiply.outer(many[rows], many).astype(np.float64)[upper]
            for code, weight in zip(codes.tolist(), np.bincount(place, weights=weights).tolist(), strict=True):
                found[code] = found.get(code, 0) + int(weight)
        codes = np.array(sorted(found), dtype=np.int64)
        counts = np.array([found[code] for code in codes.tolist()], dtype=np.int64)
        adjusted = holm(mcnemar_p(codes >> 32, codes & 0xFFFFFFFF), counts)
        adjusted[0] = 1.0  # of a model and itself, which is no pair
        return cls(distinct, which.reshape(-1), codes, adjusted)

    def ranks(self) -> NDArray[np.int64]:
        """Return (m,) ranks: 1 + the number of models that are significantly better."""
        many = np.bincount(self.which, minlength=len(self.distinct)).astype(np.float64)
        # Of a number of discordant samples p rises with the smaller count, so that a limit on this count decides.
        limit = np.full(self.distinct.shape[1] + 1, -1)
        codes = self.codes[self.adjusted < SIGNIFICANCE]
        fewer, more = codes >> 32, codes & 0xFFFFFFFF
        np.maximum.at(limit, fewer + more, fewer)
        ahead = np.zeros(len(self.distinct))
        for rows, ours, theirs in _discordant(self.distinct):
            ahead[rows] = ((theirs > ours) & (ours <= limit[ours + theirs])) @ many
        ranks: NDArray[np.int64] = 1 + ahead.astype(np.int64)[self.which]
        return ranks

    def adjusted_p(self, first: int, second: int) -> float:
        """Return the adjusted p-value of two models by their positions in 0..m-1."""
        one, other = self.distinct[self.which[first]], self.distinct[self.which[second]]
        code = _code(np.array([np.sum(one > other)]), np.array([np.sum(other > one)]))
        return float(self.adjusted[np.searchsorted(self.codes, code)][0])


_Block = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _discordant(distinct: NDArray[np.float32]) -> Iterator[_Block]:
    """Yield some rows (b,) at a time and, for each with all u, what it alone has and what it alone lacks: (b, u)."""
    right = distinct.sum(axis=1)
    step = max(1, _CELLS // max(1, len(distinct)))
    for start in range(0, len(distinct), step):
        rows = np.arange(start, min(start + step, len(distinct)))
        both = distinct[rows] @ distinct.T
        yield rows, (right[rows, None] - both).astype(np.int64), (right - both).astype(np.int64)


def _code(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the smaller count and the larger one as one number."""
    return np.asarray(np.minimum(ours, theirs) << 32 | np.maximum(ours, theirs))


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
