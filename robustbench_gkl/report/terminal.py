"""Leaderboards and progress on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

_PLAIN_WIDTH = 200
"""Columns assumed where there is no terminal, so that logs and files are not cut at 80."""


def make_console(*, quiet: bool = False) -> Console:
    """Return the console for results and progress; a quiet one writes nothing."""
    console = Console(quiet=quiet, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    return console


def leaderboard_table(frame: pd.DataFrame) -> Table:
    """Return a leaderboard as a rich table: figures aligned right, checks in colour, ``-`` for what is not there."""
    import pandas as pd

    table = Table(header_style="bold", row_styles=("", "dim"), box=None, pad_edge=False)
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        # What does not fit goes on in the next line: an ellipsis could hide what tells two rows apart.
        table.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(name, value) for name, value in zip(frame.columns, row, strict=True)))
    return table


def _cell(name: str, value: object) -> str:
    import pandas as pd

    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "-"
    if name == "checks":
        colour = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}.get(str(value), "default")
        return f"[{colour}]{value}[/{colour}]"
    if name == "eval_seconds":
        return f"{value:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else escape(f"{value}")


def settings_lines(values: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Return nested settings as ``table.key = value`` lines, leaving out what is None."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += settings_lines(value, prefix=f"{prefix}{key}.")
        elif value is not None:
            lines.append(f"{prefix}{key} = {value}")
    return lines


class LiveProgress:
    """One progress bar on a terminal; elsewhere a plain line every ``interval`` seconds.

    Use as a context manager.
    """

    def __init__(self, console: Console, *, interval: float = 10.0) -> None:
        self._console = console
        self._interval = interval
        self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if console.is_terminal and not console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )

    def __enter__(self) -> LiveProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, description: str, done: int, total: int, *, note: str = "") -> None:
        """Show that ``done`` of ``total`` is done."""
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(description, total=total, note=note)
            self._bar.update(self._task, description=description, completed=done, total=total, note=note)
        elif time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            self.line(f"{description}: {done}/{total} {note}".rstrip())

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False)
