"""The interface through which a suite reports on its cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from robustbench_gkl.suite.cells import Cell
from robustbench_gkl.suite.ledger import Outcome


class Running(NamedTuple):
    """A cell that runs: for how long in seconds, and the newest line of its log."""

    cell: Cell
    seconds: float
    line: str


class SuiteObserver(Protocol):
    """Is called when something happens to a suite's cells."""

    def begun(self, cell: Cell, /) -> None:
        """A cell has begun."""

    def ended(self, cell: Cell, outcome: Outcome, /) -> None:
        """A cell has ended."""

    def tick(self, running: Callable[[], Sequence[Running]], /, *, left: Callable[[], float | None]) -> None:
        """Some time has passed; the two calls return what runs now and the seconds that are left, if known."""

    def line(self, text: str, /) -> None:
        """A message that belongs to no cell."""
