"""How far ahead a random search looks: how many of its next steps share one batch."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median

_TRIED = 6
"""Batches in a row by which a number of steps is judged; the first of them is not timed."""
_FIRST, _LAST = 20, 640
"""Batches until the next trial, at first and where trials keep changing nothing."""
_GAIN = 1.05
"""How much faster another number must be to be taken."""
_MOST = 64


class Lookahead:
    """Chooses how many steps of each sample share a batch, by how fast samples go through their steps.

    Until a window is kept, the next ones do not depend on the answers, so they can be asked about at once. What comes
    after a kept one is lost. What is best depends on the model, the machine, the batch and how many windows are kept:
    so twice and half as many steps as at present are timed now and then.
    """

    def __init__(self) -> None:
        self.steps = 1
        self._best, self._pause, self._left = 1, _FIRST, _FIRST
        self._trials: list[int] = []
        self._seconds: defaultdict[int, list[float]] = defaultdict(list)
        self._taken: defaultdict[int, list[float]] = defaultdict(list)
        self._began: float | None = None

    def begin(self, most: int) -> int:
        """Return how many steps share the next batch, at most ``most``."""
        if most == 1:
            self.steps, self._began = 1, None
            return 1
        if self._left == 0:
            self._turn()
        self.steps = min(self.steps, 1 << min(most, _MOST).bit_length() - 1)
        self._began = time.perf_counter()
        return self.steps

    def end(self, taken: float) -> None:
        """Note that samples took ``taken`` steps on average in the batch begun last."""
        if self._began is None:  # there was no choice
            return
        self._left -= 1
        if self._trials:
            self._seconds[self.steps].append(time.perf_counter() - self._began)
            self._taken[self.steps].append(taken)

    def _turn(self) -> None:
        """Go on to the next trial, or after the last one to what was fastest."""
        if self._trials:
            self._trials.pop()
            if not self._trials:
                self._decide()
                return
        else:
            self._trials = sorted({max(1, self._best // 2), self._best, 2 * self._best})
        self.steps, self._left = self._trials[-1], _TRIED

    def _decide(self) -> None:
        rates = {
            steps: sum(self._taken[steps]) / len(seconds) / median(seconds[1:] or seconds)
            for steps, seconds in self._seconds.items()
        }
        fastest = max(rates, key=rates.__getitem__)
        if fastest != self._best and rates[fastest] > _GAIN * rates.get(self._best, 0.0):
            self._best, self._pause = fastest, _FIRST
        else:
            self._pause = min(2 * self._pause, _LAST)
        self.steps, self._left = self._best, self._pause
        self._seconds.clear()
        self._taken.clear()
