"""What all live displays share: a part of the terminal that is drawn anew, and plain lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

DrawingT = TypeVar("DrawingT", Live, Progress)
DisplayT = TypeVar("DisplayT", bound="LiveDisplay[Any]")


def duration(seconds: float) -> str:
    """Return ``0:01:30`` for 90 seconds."""
    return str(timedelta(seconds=round(seconds)))


class LiveDisplay(Generic[DrawingT]):
    """A display on a console; use as a context manager.

    Args:
        console: where to.
        drawing: what a terminal shows; it is used nowhere else, nor on a quiet console.
        interval: seconds between two updates of the drawing, and
        plain_interval: between two lines where there is none.
    """

    def __init__(self, console: Console, drawing: DrawingT, *, interval: float, plain_interval: float) -> None:
        self._console = console
        self._drawing: DrawingT | None = drawing if console.is_terminal and not console.quiet else None
        self._interval = plain_interval if self._drawing is None else interval
        self._last = time.monotonic()

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


class LiveProgress(LiveDisplay[Progress]):
    """One progress bar on a terminal; elsewhere a plain line every ``interval`` seconds."""

    def __init__(self, console: Console, *, interval: float = 10.0) -> None:
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            auto_refresh=False,  # no thread of its own: see core.forked
        )
        super().__init__(console, bar, interval=0.1, plain_interval=interval)
        self._task: TaskID | None = None

    def update(self, description: str, done: int, total: int, *, note: str = "") -> None:
        """Show that ``done`` of ``total`` is done."""
        due = self._due()
        if self._drawing is None:
            if due:
                self.line(f"{description}: {done}/{total} {note}".rstrip())
            return
        if self._task is None:
            self._task = self._drawing.add_task(description, total=total, note=note)
        bar, task = self._drawing, self._task
        bar.update(task, description=description, completed=done, total=total, note=note, refresh=due)
