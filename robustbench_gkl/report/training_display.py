"""A training run on a terminal: a table of its last epochs over a progress bar; elsewhere plain lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from robustbench_gkl.report.live import BarLine, LiveDisplay, duration
from robustbench_gkl.runs.metrics import columns

_SHOWN_EPOCHS = 12
_TITLES = {
    "loss": "loss",
    "train_clean_acc": "train clean",
    "train_robust_acc": "train pgd",
    "val_clean_acc": "val clean",
    "val_robust_acc": "val pgd",
    "train_teacher_acc": "teacher",
    "train_agreement": "train agree",
    "val_agreement": "val agree",
    "grad_norm": "grad norm",
    "images_per_second": "images/s",
}
"""Columns of ``metrics.csv`` under shorter names; the others are shown under their own."""
_HIDDEN = ("seconds",)
_DISPENSABLE = (
    *("train_teacher_acc", "train_agreement", "val_agreement", "grad_norm", "images_per_second"),
    *("train_clean_acc", "train_robust_acc", "loss"),
)
"""What a narrow terminal does without, in the order in which it goes, after rates and the terms of the loss."""
_GAP = 2
"""Spaces between columns."""


def _cell(name: str, value: float) -> str:
    if name == "epoch":
        return str(int(value))
    if name.endswith(("_acc", "_agreement")):
        return f"{value:.2f}"
    return f"{value:.0f}" if name == "images_per_second" else f"{value:.4g}"


def _title(name: str) -> str:
    return _TITLES.get(name, name.removeprefix("loss_"))


class TrainingDisplay(LiveDisplay):
    """Shows steps and epochs as they come; use as a context manager.

    Args:
        console: where to.
        interval: seconds between two looks at the running means, which wait for the device; without a terminal, five
            times that between two lines.
    """

    def __init__(self, console: Console, *, interval: float = 2.0) -> None:
        super().__init__(console, interval=interval, plain_interval=5 * interval, transient=False)
        self._rows: list[Mapping[str, float]] = []

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
        if not self._due():
            return
        left = duration(seconds_left)
        running = "  ".join(f"{_title(name)} {_cell(name, value)}" for name, value in means().items())
        place, count = f"epoch {epoch + 1}/{epochs}", f"step {step}/{steps}  {left} left"
        if self._drawing is None:
            self.line(f"{place}  {count}  {running}")
            return
        bar = BarLine(place, epoch * steps + step, epochs * steps, count)
        self._drawing.update(Group(self._table(), bar, Text(running, style="dim")), refresh=True)

    def epoch(self, row: Mapping[str, float], *, epochs: int, seconds_left: float, warning: str | None) -> None:
        """Show the row of a finished epoch, and a warning that stays."""
        self._rows.append(row)
        if self._drawing is not None:
            done = int(row["epoch"])
            bar = BarLine(f"epoch {done}/{epochs}", done, epochs, f"{duration(seconds_left)} left")
            self._drawing.update(Group(self._table(), bar), refresh=True)
        else:
            values = [(name, value) for name, value in row.items() if name not in ("epoch", *_HIDDEN)]
            shown = "  ".join(f"{_title(name)} {_cell(name, value)}" for name, value in values)
            self.line(f"epoch {int(row['epoch'])}/{epochs}  {shown}  {duration(seconds_left)} left")
        if warning is not None:
            self._console.print(Text(f"warning: {warning}", style="yellow"))

    def _table(self) -> Table:
        """Return the last epochs as a table, with as many of the columns as the console has room for."""
        shown = self._rows[-_SHOWN_EPOCHS:]
        names = [name for name in columns(self._rows) if name not in _HIDDEN]
        cells = {name: [_cell(name, row[name]) if name in row else "-" for row in shown] for name in names}
        widths = {name: max(map(len, [_title(name), *cells[name]])) + _GAP for name in names}
        for name in [*(name for name in names if name not in _TITLES and name != "epoch"), *_DISPENSABLE]:
            if sum(widths.values()) - _GAP <= self._console.width:
                break
            widths.pop(name, None)
        table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for name in widths:
            table.add_column(_title(name), justify="right", no_wrap=True)
        for row in zip(*(cells[name] for name in widths), strict=True):
            table.add_row(*row)
        return table
