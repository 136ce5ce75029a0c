"""Lists and settings on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

_PLAIN_WIDTH = 1000
"""Characters in a line where there is no terminal, so that nothing in logs and files is cut or broken."""
_LEAST_BESIDE = 60
"""Characters of a summary that a line must have room for beside the names."""


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """Return the console for results and progress; a quiet one writes nothing."""
    console = Console(quiet=quiet, stderr=stderr, highlight=False, soft_wrap=False)
    if not (console.is_terminal or console.is_jupyter):
        console.width = _PLAIN_WIDTH
    return console


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
