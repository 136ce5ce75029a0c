"""Leaderboards on a terminal, and as plain lines elsewhere: a table for each board."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from robustbench_gkl.report.checks import VERDICT_STYLES

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_gkl.results.board_tables import BoardRow, BoardTable

Line = list[tuple[str, str]]
"""The parts of a line, each a text with its style."""

_DISPENSABLE = (
    *("eval_seconds", "params", "attack_seeds", "engine", "weights", "arch", "loss", "certified_interval", "teacher"),
    *("seeds", "interval", "checks", "spread", "certified_acc"),
)
"""Columns that a narrow terminal does without, after those of attacks, in the order in which they go."""
_LEAST_NAME, _LEAST_DATASET = 12, 24
"""Characters that are left of them, where there is room for so many."""
_WHOLE_NAME = 64
"""Characters of a name for which other columns go; a longer one, unless half the width holds it, is cut before that."""
_BEFORE = 4
"""Characters that are shown before the part in which two long names differ."""
_GAP = "  "
_TITLE, _HEADINGS, _TIER, _GREY, _BEST = "bold", "underline", "cyan", "dim", "bold"


def print_leaderboard(frame: pd.DataFrame, console: Console) -> None:
    """Print each board under its setting: tiers marked, best figures bold, rows without a rank grey with the reason.

    Where the console is too narrow, columns are left out, those of attacks first, and a line says how many. Names are
    shortened in the middle only where that is not enough or where they are very long, figures never.

    Args:
        frame: as :func:`robustbench_gkl.results.board_tables.board_tables` takes it.
        console: where to.
    """
    from robustbench_gkl.results.board_tables import board_tables

    print_boards(board_tables(frame), console)


def print_boards(tables: Sequence[BoardTable], console: Console) -> None:
    """Print the boards of a leaderboard, see :func:`print_leaderboard`."""
    width = console.width
    layouts = [(table, _layout(table, width)) for table in tables]
    blocks = [list(_board(table, layout, width)) for table, layout in layouts]
    hidden = dict.fromkeys(name for _, layout in layouts for name in layout.hidden)
    if hint := _hint(list(hidden), width, shortened=any(layout.shortened for _, layout in layouts)):
        blocks.append(list(_wrapped(hint, width, _GREY)))
    segments: list[Segment] = []
    for line in [line for block in blocks for line in ([], *block)][1:]:
        segments += [*(Segment(text, Style.parse(style)) for text, style in line), Segment.line()]
    console.print(Segments(segments), end="", crop=False)


@dataclass(frozen=True)
class _Layout:
    """What of a board is shown, and how wide.

    Attributes:
        columns: what there is room for, in order.
        widths: of all columns.
        hidden: headings of the others.
        names: how each model is called.
    """

    columns: tuple[str, ...]
    widths: Mapping[str, int]
    hidden: tuple[str, ...]
    names: Mapping[str, str]

    @property
    def shortened(self) -> bool:
        """Whether there is no room for the names."""
        return any(name != short for name, short in self.names.items())


def _layout(table: BoardTable, width: int) -> _Layout:
    from robustbench_gkl.results.board_tables import heading

    rows = [row for section in table.sections for row in section.rows]
    widths = {
        name: max(cell_len(text) for text in (heading(name), *(_cell(table, row, name) for row in rows)))
        for name in table.columns
    }
    columns, longest = list(table.columns), widths["model"]
    widths["model"] = min(longest, max(_WHOLE_NAME, width // 2))

    def total() -> int:
        return sum(widths[name] for name in columns) + len(_GAP) * (len(columns) - 1)

    alone = [name for name in table.attacks if not name.startswith("after ")]
    after = [name for name in table.attacks if name not in alone]
    for name in ("lacks", *reversed(after), *reversed(alone), *_DISPENSABLE):
        if name in columns and total() > width:
            columns.remove(name)
    hidden = tuple(heading(name) for name in table.columns if name not in (*columns, "lacks"))
    names = [row.cells["model"] for row in rows]
    widths["model"] = min(longest, max(_LEAST_NAME, width - total() + widths["model"]))
    return _Layout(tuple(columns), widths, hidden, _shortened(names, widths["model"]))


def _board(table: BoardTable, layout: _Layout, width: int) -> Iterator[Line]:
    """Yield the lines of a board."""
    from robustbench_gkl.results.board_tables import heading

    yield from _title(table, width)
    yield _line(table, layout, {name: (heading(name), _HEADINGS) for name in layout.columns})
    for section in table.sections:
        if section.name:
            yield [(section.name, _TIER if any(row.ranked for row in section.rows) else _GREY)]
        for row in section.rows:
            yield _line(table, layout, {name: _styled(table, layout, row, name) for name in layout.columns})
            if row.lacks and "lacks" not in layout.columns:
                indent = " " * (layout.widths["rank"] + len(_GAP))
                yield from _wrapped(f"{heading('lacks')}: {row.lacks}", width, _GREY, indent=indent)
    if table.note:
        yield from _wrapped(table.note, width, _GREY)


def _title(table: BoardTable, width: int) -> Iterator[Line]:
    """Yield data set and setting; in two lines or more where one would cost too much of the data set's name."""
    room = width - cell_len(f", {table.setting}")
    if room >= min(_LEAST_DATASET, cell_len(table.dataset)):
        yield [(f"{_cut(table.dataset, room)}, {table.setting}", _TITLE)]
    else:
        yield [(f"{_cut(table.dataset, width - 1)},", _TITLE)]
        yield from _wrapped(table.setting, width, _TITLE)


def _line(table: BoardTable, layout: _Layout, cells: Mapping[str, tuple[str, str]]) -> Line:
    """Return texts with their styles as a line, numbers on the right of their columns."""
    parts: Line = []
    plain = ""  # since the last part with a style, so that long boards have few parts
    for name, (text, style) in cells.items():
        space = " " * (layout.widths[name] - cell_len(text))
        before, after = (space, "") if name in table.numeric else ("", space)
        if text and style:
            parts += [(plain + before, ""), (text, style)]
            plain = after + _GAP
        else:
            plain += before + text + after + _GAP
    return [*parts, (plain.rstrip(), "")]


def _styled(table: BoardTable, layout: _Layout, row: BoardRow, name: str) -> tuple[str, str]:
    text = layout.names[row.cells[name]] if name == "model" else _cell(table, row, name)
    if name == "checks" and text in VERDICT_STYLES and (row.ranked or text != "PASS"):
        return text, VERDICT_STYLES[text]
    return text, _BEST if name in row.best else "" if row.ranked else _GREY


def _cell(table: BoardTable, row: BoardRow, name: str) -> str:
    return row.cells[name] or ("-" if name in table.numeric else "")


def _wrapped(text: str, width: int, style: str, *, indent: str = "") -> Iterator[Line]:
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return ([(line, style)] for line in lines)


def _hint(hidden: Sequence[str], width: int, *, shortened: bool) -> str:
    """Return the line about what is not shown, with the headings of the columns if they fit; empty if all is."""
    if not (hidden or shortened):
        return ""
    count = f"{len(hidden)} column{'s' if len(hidden) > 1 else ''} hidden"
    ways = (f"{count} ({', '.join(hidden)})", count) if hidden else ("", "")
    cut = "names cut" if shortened else ""
    long, short = (f"{', '.join(filter(None, (way, cut)))}: --csv or a wider terminal" for way in ways)
    return long if cell_len(long) <= width else short


def _shortened(names: Iterable[str], room: int) -> dict[str, str]:
    """Return each name in at most so many characters: of those that would be alike, the part where they differ."""
    short = {name: _cut(name, room) for name in names}
    alike: dict[str, list[str]] = defaultdict(list)
    for name, text in short.items():
        alike[text].append(name)
    for group in alike.values():
        if len(group) > 1:
            same = takewhile(lambda letters: len(set(letters)) == 1, zip(*group, strict=False))
            keep = max(0, len(list(same)) - _BEFORE)
            short |= {name: _cut(name, room, keep=keep) for name in group}
    return short


def _cut(text: str, room: int, *, keep: int | None = None) -> str:
    """Return a text in at most ``room`` characters, without its middle: its end stays, or what ``keep`` begins."""
    if cell_len(text) <= room:
        return text
    if keep is None:
        end = set_cell_size(text[::-1], (room - 1) // 2)[::-1].lstrip()
    else:
        end, most = text[keep:], room - 1 - room // 3
        end = end if cell_len(end) <= most else f"{set_cell_size(end, most - 1).rstrip()}…"
    start = set_cell_size(text, room - 1 - cell_len(end)).rstrip()
    return f"{start}…{end}"
