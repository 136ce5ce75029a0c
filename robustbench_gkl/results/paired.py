"""Paired comparison of two models on the samples that both were evaluated on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_gkl.results.statistics import SIGNIFICANCE, Z95, mcnemar_p, wilson_interval

_POWER_QUANTILE = 0.8416212335729143
"""The 80 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class PairedCounts:
    """Counts of samples on which both, one or neither of two models are right.

    Attributes:
        both: samples on which both stand.
        first_only, second_only: samples on which just one stands: the discordant ones.
        neither: samples on which both fall.
    """

    both: int
    first_only: int
    second_only: int
    neither: int

    @classmethod
    def of(cls, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedCounts:
        """Count two arrays (N,) that say which samples stand.

        Raises:
            ValueError: they differ in length or are empty.
        """
        if first.shape != second.shape or first.size == 0:
            raise ValueError(f"need two non-empty arrays of one length, got {first.shape} and {second.shape}")
        return cls(
            int(np.sum(first & second)),
            int(np.sum(first & ~second)),
            int(np.sum(~first & second)),
            int(np.sum(~first & ~second)),
        )

    @property
    def n(self) -> int:
        """The number of samples."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def difference(self) -> float:
        """The first accuracy minus the second, in [-1, 1]."""
        return (self.first_only - self.second_only) / self.n

    @property
    def p_value(self) -> float:
        """The p-value in (0, 1] of equal accuracy, see :func:`~robustbench_gkl.results.statistics.mcnemar_p`."""
        return float(mcnemar_p(np.array(self.first_only), np.array(self.second_only)))

    @property
    def significant(self) -> bool:
        """Whether the test refuses equality at 5 %."""
        return self.p_value < SIGNIFICANCE

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the difference (Newcombe 1998, method 10), two numbers in [-1, 1]."""
        a, b, c, d, n = self.both, self.first_only, self.second_only, self.neither, self.n
        first, second = (a + b) / n, (a + c) / n
        low1, high1 = wilson_interval(a + b, n)
        low2, high2 = wilson_interval(a + c, n)
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        cross = a * d - b * c
        phi = (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(margins) if margins else 0.0
        down = _hypotenuse(first - low1, high2 - second, phi)
        up = _hypotenuse(high1 - first, second - low2, phi)
        return self.difference - down, self.difference + up

    def samples_needed(self) -> int | None:
        """Return how many samples would show this difference in four of five tries at 5 % (Connor 1987).

        None if there is no difference to show.
        """
        discordant, difference = (self.first_only + self.second_only) / self.n, abs(self.difference)
        if difference == 0:
            return None
        root = Z95 * math.sqrt(discordant) + _POWER_QUANTILE * math.sqrt(discordant - difference**2)
        return math.ceil((root / difference) ** 2)


def _hypotenuse(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))
