"""Messages between ranks, through the store that torchrun starts them with.

Collectives give up on a rank that is slow, and a signal waits until they are over. Here one may wait for hours, and
fails meanwhile if another rank has failed.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from robustbench_gkl.core.errors import RankError
from robustbench_gkl.ranks.collectives import ALONE, World

T = TypeVar("T")

_PIECE = 4 << 20
"""Characters in one value of the store, which refuses much longer ones."""
_LONGEST_PAUSE = 0.1
"""Seconds between two looks for a message."""
_CONNECT = timedelta(minutes=2)
_FAREWELL = 60.0
"""Seconds for which a rank that fails, and rank 0 at the end, wait for the others to read their messages."""


class Exchange:
    """Messages between the ranks of ``world``.

    All of them must call :meth:`gather`, :meth:`from_leader`, :meth:`one_first`, :meth:`end` and :meth:`topic` in the
    same order.
    Without a store this is an exchange with oneself.
    """

    def __init__(self, world: World = ALONE, store: Store | None = None) -> None:
        assert (store is None) == (world.size == 1)
        self.world, self._store = world, store
        self._topics = 0
        self._own: Counter[str] = Counter()

    def topic(self) -> str:
        """Return a name that no other topic has."""
        self._topics += 1
        return f"topic{self._topics}"

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in their order; they must be plain data that JSON can hold."""
        if self._store is None:
            return [value]
        topic, own = self.topic(), self.world.rank
        self._send(f"{topic}/{own}", value)
        return [value if rank == own else self._receive(f"{topic}/{rank}") for rank in range(self.world.size)]

    def from_leader(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns on rank 0, the only one to call it; it must be plain data that JSON can hold."""
        topic = self.topic()
        if not self.world.leads:
            received: T = self._receive(topic)
            return received
        value = make()
        if self._store is not None:
            self._send(topic, value)
        return value

    def one_first(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns; one rank of each machine does it before the others, so as to fill caches."""
        early = work() if self.world.local_rank == 0 else None
        self.gather(None)
        return early if early is not None else work()

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return its new value; that is what makes it a claim."""
        if self._store is not None:
            return int(self._store.add(key, amount))
        self._own[key] += amount
        return self._own[key]

    def counts(self, keys: Sequence[str]) -> list[int]:
        """Return where counters stand that :meth:`add` has made, with one message."""
        if self._store is not None:
            return list(map(int, self._store.multi_get(list(keys))))
        return [self._own[key] for key in keys]

    def post(self, values: dict[str, str]) -> None:
        """Write values for others to :meth:`find`."""
        if self._store is not None and values:
            self._store.multi_set(list(values), list(values.values()))  # type: ignore[attr-defined]

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """Return those of ``keys`` that have a value by now."""
        if self._store is None or not keys:
            return {}
        there = list(keys) if self._store.check(list(keys)) else [key for key in keys if self._store.check([key])]
        values = self._store.multi_get(there) if there else []
        return {key: value.decode() for key, value in zip(there, values, strict=True)}

    def end(self) -> None:
        """Wait for all ranks; rank 0, without which there may be no store, also for the others to know of all."""
        self.gather(None)
        topic = self.topic()
        if self._store is None:
            return
        if self.world.leads:
            self._reached(topic, 0, self.world.size - 1, within=_FAREWELL)
        else:
            self.add(topic, 1)

    def listen(self) -> None:
        """Raise if another rank has failed.

        Raises:
            RankError: it has.
        """
        if (failure := self.find(["failure"])) and failure["failure"]:
            message, code = json.loads(failure["failure"])
            raise RankError(message, code)

    def fail(self, message: str, code: int, *, wait: bool = True) -> tuple[str, int, bool]:
        """Post to the others that this rank ends.

        Args:
            message, code: with which it ends.
            wait: for the others to read it, unless it is an interruption (130): all are interrupted.

        Returns:
            Message and exit code of the rank that failed first, and whether all have read it.
        """
        if self._store is None:
            return message, code, True
        first = self._store.compare_set("failure", "", json.dumps([message, code]))
        message, code = json.loads(first)
        read = self._reached("readers", 1, self.world.size, within=_FAREWELL if wait and code != 130 else 0.0)
        return message, code, read or code == 130

    def _reached(self, key: str, amount: int, count: int, *, within: float) -> bool:
        """Add to a counter and wait for it to come to ``count``, ``within`` seconds; return whether it has.

        No message follows one that brings it there, upon which the rank that hosts the store may leave.
        """
        until = time.monotonic() + within
        while self.add(key, amount) < count:
            if time.monotonic() >= until:
                return False
            time.sleep(_LONGEST_PAUSE)
            amount = 0
        return True

    def _send(self, key: str, value: object) -> None:
        assert self._store is not None
        text = base64.b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode())).decode()
        pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
        for number, piece in enumerate(pieces):
            self._store.set(f"{key}.{number}", piece)
        self._store.set(key, str(len(pieces)))

    def _receive(self, key: str) -> Any:
        assert self._store is not None
        pause = 0.001
        while not self._store.check([key]):
            self.listen()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        pieces = [self._store.get(f"{key}.{number}") for number in range(int(self._store.get(key)))]
        return json.loads(zlib.decompress(base64.b64decode(b"".join(pieces))))


@functools.cache
def exchange_of(world: World) -> Exchange:
    """Return the exchange of a world that torchrun has started; the same one each time."""
    if world.size == 1:
        return Exchange()
    store, _, _ = next(iter(rendezvous("env://", timeout=_CONNECT)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Exchange(world, PrefixStore(f"gklbench/{attempt}", store))
