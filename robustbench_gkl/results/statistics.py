"""Intervals for accuracies."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


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


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution with so many degrees of freedom (at least 1)."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))
