"""A training run on a terminal: a table of its last epochs over a progress bar; elsewhere plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from robustbench_gkl.runs.metrics import columns

_SHOWN_EPOCHS = 12
_TITLES = {
    "loss": "loss",
    "train_clean_acc": "train clean",
    "train_robust_acc": "train pgd",
    "val_clean_acc": "val clean",
    "val_robust_acc": "val pgd",
    "grad_norm": "grad norm",
    "images_per_second": "images/s",
}
"""Columns of ``metrics.csv`` under shorter names; the others are shown under their own."""
_HIDDEN = ("seconds",)


def _cell(name: str, value: float) -> str:
    if name == "epoch":
        return str(int(value))
    if name.endswith("_acc"):
        return f"{value:.2f}"
    return f"{value:.0f}" if name == "images_per_second" else f"{value:.4g}"


def _title(name: str) -> str:
    return _TITLES.get(name, name.removeprefix("loss_"))


def duration(seconds: float) -> str:
    """Return ``0:01:30`` for 90 seconds."""
    return str(timedelta(seconds=round(seconds)))


class TrainingDisplay:
    """Shows steps and epochs as they come; use as a context manager.

    Args:
        console: where to.
        interval: seconds between two looks at the running means, which wait for the device; without a terminal, five
            times that between two lines.
    """

    def __init__(self, console: Console, *, interval: float = 2.0) -> None:
        self._console, self._interval = console, interval
        self._rows: list[Mapping[str, float]] = []
        self._last = time.monotonic()
        self._live: Live | None = None
        if console.is_terminal and not console.quiet:
            self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> TrainingDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def step(
        self,
        *,
        epoch: int,
        epochs: int,
        step: int,
        steps: int,
        seconds_left: float,
        means: Callable[[], Mapping[str, float]],
    ) -> None:
        """Show that ``step`` of ``steps`` in ``epoch`` (from 0) is done; ``means`` is called now and then only."""
        wait = self._interval if self._live is not None else 5 * self._interval
        if time.monotonic() - self._last < wait:
            return
        self._last = time.monotonic()
        left = duration(seconds_left)
        running = "  ".join(f"{_title(name)} {_cell(name, value)}" for name, value in means().items())
        head = f"epoch {epoch + 1}/{epochs}  step {step}/{steps}  {left} left"
        if self._live is None:
            self.line(f"{head}  {running}")
            return
        bar = Padding(ProgressBar(total=epochs * steps, completed=epoch * steps + step), 0)  # a bar ends no line
        self._live.update(Group(self._table(), bar, Text(head), Text(running)), refresh=True)

    def epoch(self, row: Mapping[str, float], *, epochs: int, seconds_left: float, warning: str | None) -> None:
        """Show the row of a finished epoch, and a warning that stays."""
        self._rows.append(row)
        if self._live is not None:
            self._live.update(Group(self._table(), Text(f"{duration(seconds_left)} left")), refresh=True)
        else:
            values = [(name, value) for name, value in row.items() if name not in ("epoch", *_HIDDEN)]
            shown = "  ".join(f"{_title(name)} {_cell(name, value)}" for name, value in values)
            self.line(f"epoch {int(row['epoch'])}/{epochs}  {shown}  {duration(seconds_left)} left")
        if warning is not None:
            self._console.print(Text(f"warning: {warning}", style="yellow"))

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False)

    def _table(self) -> Table:
        """Return the last epochs as a table."""
        table = Table(header_style="bold", box=None, pad_edge=False)
        if not self._rows:
            return table
        names = [name for name in columns(self._rows) if name not in _HIDDEN]
        for name in names:
            table.add_column(_title(name), justify="right", no_wrap=True)
        for row in self._rows[-_SHOWN_EPOCHS:]:
            table.add_row(*(_cell(name, row[name]) if name in row else "-" for name in names))
        return table
