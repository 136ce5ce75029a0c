"""Leaderboards and settings on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.markup import escape
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from robustbench_gkl.report.checks import VERDICT_STYLES

if TYPE_CHECKING:
    import pandas as pd

_PLAIN_WIDTH = 1000
"""Characters in a line where there is no terminal, so that nothing in logs and files is cut or broken."""
_BOARD_COLUMNS = ("samples", "split", "n", "threat", "dataset")
_DISPENSABLE = (
    *("params", "eval_seconds", "arch", "loss", "lacks", "attack_seeds", "engine", "ci_low", "ci_high", "weights"),
    "teacher",
    *_BOARD_COLUMNS,
)
"""Columns that a narrow terminal does without, in the order in which they go."""

_MOST_NOTES = 5
_LEAST_BESIDE = 60
"""Characters of a summary that a line must have room for beside the names."""


def make_console(*, quiet: bool = False) -> Console:
    """Return the console for results and progress; a quiet one writes nothing."""
    console = Console(quiet=quiet, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    return console


def leaderboard_table(frame: pd.DataFrame, *, width: int = _PLAIN_WIDTH) -> RenderableType:
    """Return a leaderboard for a console: figures aligned right, checks in colour, ``-`` for what is not there.

    Columns that matter least are left out until the rest fits, and the caption names them.

    Args:
        frame: from :func:`robustbench_gkl.results.leaderboard`.
        width: of the console that it is for, in characters.
    """
    import pandas as pd

    columns = {name: _cells(frame[name]) for name in frame.columns}
    widths = {name: max(map(cell_len, [name, *cells])) for name, cells in columns.items()}
    left_out = []
    for name in _dispensable(frame):
        if _total(widths) <= width:
            break
        if columns.pop(name, None) is not None:
            del widths[name]
            left_out.append(name)
    notes = [f"no room here for {', '.join(left_out)}; --csv writes all columns"] if left_out else []
    notes += _lacking(frame) if "lacks" in left_out else []
    caption = Text("\n".join(notes), justify="left") if notes else None
    numeric = {name for name in columns if pd.api.types.is_numeric_dtype(frame[name])}
    if _total(widths) <= width:
        lines = _lines(columns, widths, numeric)
        return lines if caption is None else Group(lines, Constrain(caption, _total(widths)))
    table = Table(header_style="bold", box=None, pad_edge=False, caption=caption, caption_justify="left")
    for name in columns:
        # What does not fit goes on in the next line: an ellipsis could hide the difference between two rows.
        table.add_column(escape(name), justify="right" if name in numeric else "left", overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(text, style=_style(name, text)) for name, text in zip(columns, row, strict=True)))
    return table


def _lines(columns: Mapping[str, Sequence[str]], widths: Mapping[str, int], numeric: Collection[str]) -> Segments:
    """Return the lines of a table none of which breaks: rich's own lays out cell by cell, a second for 1,000 rows."""
    *_, last = columns

    def padded(name: str, text: str) -> str:
        space = " " * (widths[name] - cell_len(text))
        return (space + text if name in numeric else text + space) + ("" if name == last else "  ")

    segments = [*(Segment(padded(name, name), Style(bold=True)) for name in columns), Segment.line()]
    for row in zip(*columns.values(), strict=True):
        cells = zip(columns, row, strict=True)
        segments += [Segment(padded(name, text), Style.parse(_style(name, text))) for name, text in cells]
        segments.append(Segment.line())
    return Segments(Segment.simplify(segments))


def _style(column: str, text: str) -> str:
    return VERDICT_STYLES.get(text, "") if column == "checks" else ""  # type: ignore[call-overload]


def _dispensable(frame: pd.DataFrame) -> list[str]:
    """Return what a narrow terminal does without, in the order in which it goes.

    A tier that all rows share goes first; attacks after others, and the columns of the board itself go last.
    """
    alike = ["tier"] if "tier" in frame and frame["tier"].nunique() <= 1 else []
    apart = [name for name in _BOARD_COLUMNS if name in frame and frame[name].nunique() > 1]
    after = [name for name in map(str, frame) if name.startswith("after ")]
    return [*alike, *(name for name in _DISPENSABLE if name not in apart), *after, *apart]


def _lacking(frame: pd.DataFrame) -> list[str]:
    """Return what the first few models without a rank lack, a line each."""
    without = frame[frame["lacks"].fillna("") != ""]
    known = list(zip(without["model"], without["lacks"], strict=True))
    more = [f"and {len(known) - _MOST_NOTES} more have no rank"] if len(known) > _MOST_NOTES else []
    return [f"{model} has no rank for want of: {lacks}" for model, lacks in known[:_MOST_NOTES]] + more


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _cells(column: pd.Series[Any]) -> list[str]:
    """Return the texts of a column's cells."""
    digits = 1 if column.name == "eval_seconds" else 2
    return [
        "-" if absent else f"{value:.{digits}f}" if isinstance(value, float) else str(value)
        for value, absent in zip(column, column.isna(), strict=True)
    ]


def listing_lines(rows: Sequence[tuple[str, str]], *, width: int) -> list[str]:
    """Return names with their summaries, in lines of at most ``width`` characters where words allow it.

    A summary stands beside its name, or below it where there is little room beside the longest one.
    """
    column = max(len(name) for name, _ in rows) + 2
    lines: list[str] = []
    for name, summary in rows:
        beside = width - column >= _LEAST_BESIDE
        first, indent = (f"{name:{column}}", " " * column) if beside else (" " * 4, " " * 4)
        if not beside:
            lines.append(name)
        lines += textwrap.wrap(
            summary,
            width,
            initial_indent=first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or ([name] if beside else [])
    return lines


def settings_lines(values: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Return nested settings as ``table.key = value`` lines, leaving out what is None."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += settings_lines(value, prefix=f"{prefix}{key}.")
        elif value is not None:
            lines.append(f"{prefix}{key} = {value}")
    return lines
