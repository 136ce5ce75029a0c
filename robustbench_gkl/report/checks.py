"""The checks of a model on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from robustbench_gkl.results.record import Check, CheckVerdict

VERDICT_STYLES: dict[CheckVerdict, str] = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}


def checks_table(checks: Iterable[Check]) -> Table:
    """Return one row a check: name, verdict, figure, advice."""
    table = Table("check", "verdict", "figure", "advice", header_style="bold", box=None, pad_edge=False)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for check in checks:
        verdict = f"[{VERDICT_STYLES[check.verdict]}]{check.verdict}[/]"
        table.add_row(check.name, verdict, escape(check.figure), escape(check.advice))
    return table
