"""What all live displays share: a part of a terminal or notebook that is drawn anew, and plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.jupyter import JupyterMixin
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

DisplayT = TypeVar("DisplayT", bound="LiveDisplay")
_BAR = (8, 40)
"""Characters of a bar, at least and at most."""
_IN_NOTEBOOKS = 0.5
"""Seconds between two drawings there, at least."""


def duration(seconds: float) -> str:
    """Return ``0:01:30`` for 90 seconds."""
    return str(timedelta(seconds=round(seconds)))


@dataclass(frozen=True)
class BarLine:
    """What is done, a bar, how much of it is done and the time left: one line, in which all but the first is whole.

    Attributes:
        text: what is done; its end is cut off where there is no room.
        done, total: for the bar.
        figures: right of the bar, such as the count.
    """

    text: str
    done: float
    total: float
    figures: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the line, as wide as the console."""
        least, most = _BAR
        text = Text(self.text)
        text.truncate(max(options.max_width - cell_len(self.figures) - least - 2, 1), overflow="ellipsis")
        room = options.max_width - text.cell_len - cell_len(self.figures) - 2
        line = Table.grid(padding=(0, 1, 0, 0))
        for width in (text.cell_len, min(max(room, least), most), cell_len(self.figures)):
            line.add_column(no_wrap=True, width=width)
        line.add_row(text, ProgressBar(total=self.total, completed=self.done), Text(self.figures))
        yield line


class _Output(JupyterMixin):
    """What a notebook shows of a renderable."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._renderable


class NotebookArea:
    """A part of a notebook's output that is drawn anew, as ``Live`` is of a terminal; that one needs ipywidgets here.

    Args:
        transient: clear it at the end.
    """

    def __init__(self, *, transient: bool) -> None:
        self._transient = transient
        self._handle: Any = None

    def start(self) -> None:
        """Begin it, empty."""
        from IPython.display import display

        self._handle = display(_Output(""), display_id=True)

    def update(self, renderable: RenderableType, *, refresh: bool = True) -> None:
        """Draw it anew."""
        self._handle.update(_Output(renderable))

    def stop(self) -> None:
        """End it."""
        if self._transient:
            self.update("")


class LiveDisplay:
    """A display on a console; use as a context manager.

    Args:
        console: where to.
        interval: seconds between two drawings, and
        plain_interval: between two lines where there is none.
        transient: whether what is drawn goes away at the end.
    """

    def __init__(self, console: Console, *, interval: float, plain_interval: float, transient: bool) -> None:
        self._console = console
        self._drawing: Live | NotebookArea | None = None
        self._last = time.monotonic()
        if console.is_jupyter and not console.quiet:
            self._drawing, interval = NotebookArea(transient=transient), max(interval, _IN_NOTEBOOKS)
            self._last = float("-inf")
        elif console.is_terminal and not (console.quiet or console.is_dumb_terminal):  # there nothing is drawn anew
            self._drawing = Live(console=console, auto_refresh=False, transient=transient)
        self._interval = plain_interval if self._drawing is None else interval

    def __enter__(self: DisplayT) -> DisplayT:
        if self._drawing is not None:
            self._drawing.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._drawing is not None:
            self._drawing.stop()

    def line(self, text: str | Text) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False)

    def _due(self) -> bool:
        """Return whether the interval is over, and begin the next one if so."""
        now = time.monotonic()
        if now - self._last < self._interval:
            return False
        self._last = now
        return True


class LiveProgress(LiveDisplay):
    """A bar on a terminal or in a notebook, and a note below it; elsewhere a plain line every ``interval`` seconds."""

    def __init__(self, console: Console, *, interval: float = 10.0) -> None:
        super().__init__(console, interval=0.1, plain_interval=interval, transient=True)

    def update(
        self, description: str, done: int, total: int, *, note: str = "", seconds_left: float | None = None
    ) -> None:
        """Show that ``done`` of ``total`` is done; the end of each is drawn in any case."""
        if not self._due() and (self._drawing is None or done < total):
            return
        left = "" if seconds_left is None else f"{duration(seconds_left)} left"
        if self._drawing is None:
            told = ", ".join(part for part in (note, left) if part)
            self.line(f"{description}: {done}/{total} {told}".rstrip())
            return
        bar = BarLine(description, done, total, f"{done}/{total}  {left}".rstrip())
        self._drawing.update(Group(bar, Text(note, style="dim")) if note else bar, refresh=True)
