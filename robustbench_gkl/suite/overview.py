"""A suite on a terminal: counts, a bar, what runs now; elsewhere a line for each cell that begins or ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from robustbench_gkl.report.training_display import duration
from robustbench_gkl.suite.cells import Cell
from robustbench_gkl.suite.ledger import Outcome
from robustbench_gkl.suite.state import SuiteState

_STYLES = {"done": "green", "failed": "red", "blocked": "red", "interrupted": "yellow", "running": "cyan"}
_ORDER = ("done", "running", "queued", "ready", "waiting", "interrupted", "failed", "blocked")


@dataclass(frozen=True)
class Running:
    """A cell that runs: for how long, and the last thing it said."""

    cell: Cell
    seconds: float
    line: str


class Overview:
    """Shows a board; use as a context manager.

    Args:
        console: where to.
        board: what to show.
    """

    def __init__(self, console: Console, board: SuiteState) -> None:
        self._console, self._board = console, board
        self._live: Live | None = None
        self._shown = 0.0
        if console.is_terminal and not console.quiet:
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Overview:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def begun(self, cell: Cell, *, how: str = "") -> None:
        """Say that a cell has begun; a terminal shows it among those that run."""
        if self._live is None:
            self.line(f"{self._place()} begin {cell}{how}")

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """Say how a cell ended, and why if it failed."""
        word = {"done": "done ", "failed": "FAIL ", "interrupted": "stop "}[outcome.status]
        style = _STYLES[outcome.status]
        note = f" with exit code {outcome.exit_code}" if outcome.status == "failed" else ""
        text = Text.assemble(f"{self._place()} ", (word, style), f" {cell} in {duration(outcome.seconds)}{note}")
        self._console.print(text)
        if outcome.status == "failed":
            for line in outcome.lines[-3:]:
                self.line(f"    {line}")

    def tick(self, running: Callable[[], Sequence[Running]], *, left: Callable[[], float | None]) -> None:
        """Show what runs now and the seconds that are left; a terminal asks for them four times a second at most."""
        if self._live is None or time.monotonic() - self._shown < 0.25:
            return
        self._shown = time.monotonic()
        done, total = self._board.counts()["done"], len(self._board.cells)
        table = Table(box=None, pad_edge=False, show_header=False, expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column(no_wrap=True, justify="right", min_width=7)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3, style="dim")
        for one in running():
            table.add_row(Text(str(one.cell)), duration(one.seconds), Text(one.line))
        head = self.summary()
        seconds = left()
        head.append("   time left unknown" if seconds is None else f"   {duration(seconds)} left")
        bar = Padding(ProgressBar(total=total, completed=done), 0)
        self._live.update(Group(head, bar, table), refresh=True)

    def summary(self) -> Text:
        """Return the number of cells in each state."""
        counts = self._board.counts()
        parts: list[str | tuple[str, str]] = [f"{len(self._board.cells)} cells: "]
        for number, state in enumerate(state for state in _ORDER if counts[state]):
            parts += [", " if number else "", (f"{counts[state]} {state}", _STYLES.get(state, ""))]
        return Text.assemble(*parts)

    def line(self, text: str | Text) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False)

    def _place(self) -> str:
        counts, total = self._board.counts(), len(self._board.cells)
        return f"[{counts['done']:>{len(str(total))}}/{total}]"
