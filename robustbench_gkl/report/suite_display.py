"""A suite on a terminal: counts, a bar, what runs now; elsewhere a line for each cell that begins or ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from robustbench_gkl.report.live import BarLine, LiveDisplay, duration

_STYLES = {"done": "green", "failed": "red", "blocked": "red", "interrupted": "yellow", "running": "cyan"}
_ORDER = ("done", "running", "queued", "ready", "waiting", "interrupted", "failed", "blocked")


class Ended(Protocol):
    """How a cell ended."""

    @property
    def status(self) -> str:
        """``done``, ``failed`` or ``interrupted``."""

    @property
    def exit_code(self) -> int:
        """Of its command."""

    @property
    def seconds(self) -> float:
        """That it took."""

    @property
    def lines(self) -> Sequence[str]:
        """The last of its log."""


class SuiteDisplay(LiveDisplay):
    """Shows the cells of a suite; use as a context manager. A cell is anything that has a text.

    Args:
        console: where to.
        counts: returns how many cells are in each state; every cell is in one.
    """

    def __init__(self, console: Console, counts: Callable[[], Mapping[str, int]]) -> None:
        super().__init__(console, interval=0.25, plain_interval=0, transient=True)
        self._counts = counts
        self._last = float("-inf")  # the first look is due at once

    def begun(self, cell: object) -> None:
        """Say that a cell has begun; a terminal shows it among those that run."""
        if self._drawing is None:
            self.line(f"{self._place()} begin {cell}")

    def ended(self, cell: object, outcome: Ended) -> None:
        """Say how a cell ended, and why if it failed."""
        word = {"done": "done ", "failed": "FAIL ", "interrupted": "stop "}[outcome.status]
        style = _STYLES[outcome.status]
        note = f" with exit code {outcome.exit_code}" if outcome.status == "failed" else ""
        text = Text.assemble(f"{self._place()} ", (word, style), f" {cell} in {duration(outcome.seconds)}{note}")
        self.line(text)
        if outcome.status == "failed":
            for line in outcome.lines[-3:]:
                self.line(f"    {line}")

    def tick(
        self,
        running: Callable[[], Sequence[tuple[object, float, str]]],
        *,
        left: Callable[[], float | None],
    ) -> None:
        """Show what runs now (a cell, its seconds, its newest line) and the seconds left; asked for only when due."""
        if self._drawing is None or not self._due():
            return
        table = Table(box=None, pad_edge=False, show_header=False, expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column(no_wrap=True, justify="right", min_width=7)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3, style="dim")
        for cell, taken, line in running():
            table.add_row(Text(str(cell)), duration(taken), Text(line))
        seconds = left()
        told = "time left unknown" if seconds is None else f"{duration(seconds)} left"
        done, total = self._done()
        bar = BarLine("suite", done, total, f"{done}/{total}  {told}")
        self._drawing.update(Group(bar, self.summary(), table), refresh=True)

    def summary(self) -> Text:
        """Return the number of cells in each state."""
        counts = self._counts()
        parts: list[str | tuple[str, str]] = [f"{self._done()[1]} cells: "]
        for number, state in enumerate(state for state in _ORDER if counts.get(state)):
            parts += [", " if number else "", (f"{counts[state]} {state}", _STYLES.get(state, ""))]
        return Text.assemble(*parts)

    def _done(self) -> tuple[int, int]:
        """Return how many cells are done, and how many there are."""
        counts = self._counts()
        return counts.get("done", 0), sum(counts.values())

    def _place(self) -> str:
        done, total = self._done()
        return f"[{done:>{len(str(total))}}/{total}]"
