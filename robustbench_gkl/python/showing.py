"""Where the calls from Python show what they do: in a notebook and on a terminal, else only if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console_for(progress: bool | None) -> Console:
    """Return the console for progress, on standard error so that what a program prints stays its own.

    Args:
        progress: None for a quiet one where there is neither notebook nor terminal; False for a quiet one anywhere.
    """
    from robustbench_gkl.report.terminal import make_console

    console = make_console(quiet=progress is False, stderr=True)
    if progress is None and not (console.is_terminal or console.is_jupyter):
        console.quiet = True
    return console
