"""How far certification goes, and what a journal says of how far it went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Effort:
    """How far certification goes.

    Attributes:
        complete: search the samples that bounds do not prove until they are decided or their budget is spent.
        seconds: of the processor's time for each of them; None for no limit.
        calls: rows through the network for each of them, forwards and backwards; None for no limit.
    """

    complete: bool = False
    seconds: float | None = None
    calls: int | None = None

    def __str__(self) -> str:
        if not self.complete:
            return "bounds alone"
        return f"{self.calls}calls" if self.calls is not None else f"{self.seconds:g}s" if self.seconds else "no limit"

    def goes_beyond(self, spent: Mapping[str, float | None] | None) -> bool:
        """Return whether it is more than the ``seconds`` and ``calls`` (None for no limit) spent on a sample so far."""
        if not self.complete or spent is None:
            return self.complete
        unit, limit = ("seconds", self.seconds) if self.calls is None else ("calls", self.calls)
        before = spent[unit]
        if before is None:  # no limit, or one in the other unit
            return spent["seconds"] != spent["calls"]
        return limit is None or before < limit


def known_certificates(entries: Iterable[Mapping[str, Any]], key: str) -> tuple[set[int], dict[int, dict[str, float]]]:
    """Return the samples whose bounds are known, and what was spent on those that stay undecided."""
    bounded: set[int] = set()
    spent: dict[int, dict[str, float]] = {}
    for entry in entries:
        if entry.get("stage") == key:
            bounded |= set(entry.get("bounded", ()))
            spent |= {
                position: {"seconds": seconds, "calls": calls}
                for position, seconds, calls in entry.get("undecided", ())
            }
    return bounded, spent
