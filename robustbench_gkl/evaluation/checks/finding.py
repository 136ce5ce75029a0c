"""What the checks before and after the attacks share: a finding, and its way into the record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_gkl.core.noise import permutation
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import Check, CheckVerdict
from robustbench_gkl.results.statistics import binomial_tail

S = TypeVar("S")

ROUNDING = 1e-3
"""Differences of logits, over their standard deviation, that float32 arithmetic may explain.

Sums in another order differ by about 1e-6; a dropout layer or a batch's own statistics by more than 1e-2.
"""
RARE = 0.01
"""Share of exceptions above which, beyond chance, a check fails instead of warning."""
SURE = 1e-3
"""Chance at which a paired test may call a sound model broken."""


@dataclass(frozen=True)
class Finding:
    """What one check found: its verdict, the figure behind it, and advice."""

    verdict: CheckVerdict
    figure: str
    advice: str = ""

    @classmethod
    def graded(cls, figure: str, advice: str, *, fail: bool, warn: bool = False) -> Finding:
        """Return FAIL, else WARN, else PASS, which needs no advice."""
        if fail or warn:
            return cls("FAIL" if fail else "WARN", figure, advice)
        return cls("PASS", figure)


def judge(
    checks: Mapping[str, Callable[[S], Finding | None]], subject: S, *, of_attacks: Collection[str]
) -> list[Check]:
    """Return the findings of ``checks`` under their names; a check that does not apply finds None and is left out.

    Args:
        checks: by name.
        subject: what they look at.
        of_attacks: the names of those that judge an evaluation's attacks; the others judge its model.
    """
    found = ((name, check(subject)) for name, check in checks.items())
    return [
        Check(
            name=name,
            verdict=finding.verdict,
            figure=finding.figure,
            advice=finding.advice,
            scope="attack" if name in of_attacks else "model",
        )
        for name, finding in found
        if finding is not None
    ]


def sample_rows(rows: torch.Tensor, most: int, *purpose: str) -> torch.Tensor:
    """Return at most ``most`` of ``rows`` (n,), drawn at random and sorted, on the CPU.

    Not the first ones: folders list their images class by class.
    """
    return rows[permutation(0, *purpose, n=len(rows))[:most]].sort().values


def count(number: int, n: int) -> str:
    """Return ``"3 of 128"``."""
    return f"{number} of {n}"


def surely_above(share: float, number: int, n: int) -> bool:
    """Whether so many of ``n`` are too many for an event whose chance is ``share`` (exact binomial test at 1 %)."""
    return number > 0 and binomial_tail(number, n, share) < 0.01


def clearly_better(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> bool:
    """Whether the exact paired test leaves no doubt that the first is right more often."""
    if not first.size:
        return False
    counts = PairedCounts.of(first, second)
    return counts.difference > 0 and counts.p_value < SURE


def percent(right: NDArray[np.bool_]) -> str:
    """Return ``"71.1 %"``: how many are right."""
    return f"{100 * float(right.mean()):.1f} %"
