"""How the samples of an evaluation are shared: between ranks as they go, and between machines by fixed shards."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from robustbench_gkl.attacks.search.driver import Source, Task, Waiting
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.ranks.exchange import Exchange

_ASK_IDLE, _ASK_BUSY = 0.05, 0.25
"""Seconds between two looks at an empty pool, without and with restarts under way: each look waits for an answer."""
_SAY_EVERY = 1.0
"""Seconds between two messages of a rank about what it has done."""


@dataclass(frozen=True)
class Shard:
    """Each ``of``-th sample, beginning with the ``number``-th; samples are dealt out, as neighbours may be alike."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that ``2/4`` names.

        Raises:
            UserError: another spelling, or a number out of range.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UserError(f"--shard must be K/N with K from 1 to N, such as 2/4, got {text!r}")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def samples(self, n: int) -> np.ndarray:
        """Return (n,) bool: which of ``n`` samples belong to the shard."""
        mine: np.ndarray = np.arange(n) % self.of == self.number - 1
        return mine


@dataclass(frozen=True)
class Share:
    """What this process does of an evaluation, and with whom.

    Attributes:
        exchange: the ranks that share the samples.
        shard: the samples that they share; None for all.
    """

    exchange: Exchange = field(default_factory=Exchange)
    shard: Shard | None = None

    def samples(self, n: int) -> np.ndarray:
        """Return (n,) bool: which samples are evaluated."""
        return np.ones(n, dtype=bool) if self.shard is None else self.shard.samples(n)

    def source(self, tasks: Iterable[Task], *, runs: int = 1, at_once: bool = False, drivers: int = 1) -> Source:
        """Return where drivers find ``tasks``, which must be the same on all ranks; see :class:`Waiting`.

        What ranks share they give out one run of a sample at a time.
        """
        if self.exchange.world.size == 1:
            return Waiting(tasks, runs=runs, at_once=at_once, drivers=drivers)
        return Pool(self.exchange, tasks, runs=runs)


_POOLED = ("through", "later", "taken")
"""What a pool counts: samples that are through, restarts that came later than the first, restarts that were taken."""


class Pool:
    """The restarts of a stage, shared by all ranks.

    A rank takes restarts for its free slots, but holds no more than its part of the samples that are left; when one is
    over, the sample's next one goes back to the pool, and any rank with free slots takes it. So a slow rank delays no
    more than the restarts that it holds.

    Restarts are numbered in the order in which they came; the next numbers are claimed from a counter. Two ranks that
    see the same free restart may both claim a number, the second before its restart has come: it looks again later.
    """

    def __init__(self, exchange: Exchange, tasks: Iterable[Task], *, runs: int) -> None:
        self._exchange, self._topic, self._runs = exchange, exchange.topic(), runs
        self._first = sorted(tasks)
        self._claims: list[int] = []
        self._left = len(self._first)
        self._ask_again = 0.0
        for what in _POOLED:
            self._count(what)

    def take(self, free: int, held: int) -> list[Task]:
        """Return the next restarts."""
        now, size = time.monotonic(), self._exchange.world.size
        if now < self._ask_again or (held >= -(-self._left // size) and not self._claims):
            return []  # without a message: as time goes on there are never more left
        through, later, taken = self._exchange.counts([f"{self._topic}/{what}" for what in _POOLED])
        self._left = len(self._first) - through
        ready = len(self._first) + later - taken
        number = min(ready, min(free, -(-self._left // size) - held) - len(self._claims))
        if number > 0:
            end = self._count("taken", number)
            self._claims += range(end - number, end)
        tasks = self._redeem(free)
        if not tasks:
            self._ask_again = now + (_ASK_BUSY if held else _ASK_IDLE)
        return tasks

    def settle(self, done: Sequence[Task], gone: Sequence[Task]) -> None:
        """Give the samples' next restarts back."""
        later = [Task(run + 1, position) for run, position in done if run + 1 < self._runs]
        through = len(done) + len(gone) - len(later)
        if later:
            end = len(self._first) + self._count("later", len(later))
            pairs = zip(range(end - len(later), end), later, strict=True)
            self._exchange.post({self._key(number): f"{run},{position}" for number, (run, position) in pairs})
        if through:
            self._count("through", through)
        self._ask_again = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether all samples were through, on whatever rank, when this one last looked."""
        return self._left == 0

    def _redeem(self, free: int) -> list[Task]:
        """Return at most ``free`` of the restarts claimed, as far as they are there."""
        wanted = self._claims[:free]
        first = [number for number in wanted if number < len(self._first)]
        later = {self._key(number): number for number in wanted if number >= len(self._first)}
        found = self._exchange.find(list(later))
        missing = [number for key, number in later.items() if key not in found]
        self._claims = missing + self._claims[free:]
        return [self._first[number] for number in first] + [Task(*map(int, text.split(","))) for text in found.values()]

    def _key(self, number: int) -> str:
        return f"{self._topic}/{number}"

    def _count(self, what: str, amount: int = 0) -> int:
        return self._exchange.add(f"{self._topic}/{what}", amount)


class Tally:
    """Counts what all ranks have done in a stage: restarts over, samples that fell, images through the model.

    Rank 0, which alone asks for it, knows what it did itself; the others say so now and then.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, topic = exchange, exchange.topic()
        self._keys = [f"{topic}/{name}" for name in ("runs", "fallen", "calls")]
        self._own, self._said = [0, 0, 0], time.monotonic()
        for key in self._keys:
            exchange.add(key, 0)

    def add(self, *counts: int) -> None:
        """Add to the restarts, the fallen and the calls."""
        self._own = [own + count for own, count in zip(self._own, counts, strict=True)]
        if time.monotonic() - self._said >= _SAY_EVERY:
            self.say()

    def say(self) -> None:
        """Say what was added here."""
        self._said = time.monotonic()
        if self._exchange.world.leads:
            return
        for key, own in zip(self._keys, self._own, strict=True):
            self._exchange.add(key, own)
        self._own = [0, 0, 0]

    def totals(self) -> tuple[int, int, int]:
        """Return the restarts, the fallen and the calls so far."""
        runs, fallen, calls = map(sum, zip(self._own, self._exchange.counts(self._keys), strict=True))
        return runs, fallen, calls
