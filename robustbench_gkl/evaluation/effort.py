"""How far certification goes, and what a journal says of how far it went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.evaluation import Evaluation


@dataclass(frozen=True)
class Effort:
    """How far certification goes.

    Attributes:
        complete: search the samples that bounds do not prove until they are decided or their budget is spent.
        seconds: of the processor's time for each of them; None for no limit.
        calls: rows through the network for each of them, forwards and backwards; None for no limit.

    Raises:
        UserError: a limit that is not above 0, or no whole number of calls.
    """

    complete: bool = False
    seconds: float | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UserError(f"seconds must be above 0, or None for no limit, got {self.seconds}")
        if self.calls is not None:
            if not (isinstance(self.calls, Integral) and self.calls >= 1):
                raise UserError(f"calls must be a whole number from 1 on, or None for no limit, got {self.calls}")
            object.__setattr__(self, "calls", int(self.calls))  # numpy's are no JSON

    def __str__(self) -> str:
        if not self.complete:
            return "bounds alone"
        return f"{self.calls}calls" if self.calls is not None else f"{self.seconds:g}s" if self.seconds else "no limit"

    @property
    def rank(self) -> tuple[bool, float, float]:
        """The larger, the further it goes: numbers of calls among themselves, and times among themselves."""
        return self.complete, self.seconds or math.inf, self.calls or math.inf

    def goes_beyond(self, spent: Mapping[str, float | None] | None) -> bool:
        """Return whether it is more than the ``seconds`` and ``calls`` (None for no limit) spent on a sample so far."""
        if not self.complete or spent is None:
            return self.complete
        if spent["seconds"] is None and spent["calls"] is None:
            return False  # it had no limit
        pairs = ((self.seconds, spent["seconds"]), (self.calls, spent["calls"]))
        return not any(limit is not None and before is not None and limit <= before for limit, before in pairs)


class Tried:
    """What a journal says of certificates that were tried.

    Args:
        entries: the journal's.
        key: of the certificates in it.
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]], key: str) -> None:
        self.bounded: set[int] = set()
        """The samples whose bounds are known."""
        self._spent: dict[int, dict[str, float | None]] = {}
        self._part: dict[int, str] = {}
        self._meant: dict[str, Effort] = {}
        self._efforts = {Effort()}
        for entry in entries:
            if entry.get("stage") == key:
                self._take_in(entry)

    def _take_in(self, entry: Mapping[str, Any]) -> None:
        bounded, undecided = entry.get("bounded", ()), entry.get("undecided", ())
        self.bounded |= set(bounded)
        self._spent |= {position: {"seconds": seconds, "calls": calls} for position, seconds, calls in undecided}
        self._part |= dict.fromkeys(bounded, entry["part"])
        if "effort" in entry:
            self._meant[entry["part"]] = effort = Effort(**entry["effort"])
            self._efforts.add(effort)

    def meant(self, part: str) -> Effort | None:
        """Return how far a part of the journal was to go when it was last written to; None if it does not say."""
        return self._meant.get(part)

    def is_open(self, position: int, result: Evaluation, effort: Effort) -> bool:
        """Return whether there is more to do for a sample."""
        if result.is_certified(position) or result.broken_by[position] is not None:
            return False
        return position not in self.bounded or effort.goes_beyond(self._spent.get(position))

    def is_unfinished(self, position: int, result: Evaluation) -> bool:
        """Return whether the part of the journal that a sample belongs to was to go further with it."""
        return self.is_open(position, result, self._meant.get(self._part.get(position, ""), Effort()))

    def reached(self, positions: Sequence[int], result: Evaluation) -> tuple[Effort, list[int]]:
        """Return the largest effort that was meant and that no sample lacks, or the least, and what is open then."""
        for effort in sorted(self._efforts, key=lambda effort: effort.rank, reverse=True):
            left = [position for position in positions if self.is_open(position, result, effort)]
            if not left:
                break
        return effort, left
