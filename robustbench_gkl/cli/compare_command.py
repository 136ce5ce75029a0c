"""``gklbench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import named, options, sections

if TYPE_CHECKING:
    from robustbench_gkl.results.compare import Comparison, Side


@sections.command(examples=["gklbench compare digits-gkl digits-trades"])
@click.argument("first", type=named.RUN)
@click.argument("second", type=named.RUN)
@options.strict
@options.results_dir
@options.quiet
def command(first: str, second: str, strict: bool, results_dir: Path, quiet: bool) -> None:
    """Say which of two models is ahead, on samples whose pixels are known to be the same.

    FIRST and SECOND are names of models, judged by all their records as on the leaderboard, or ids of records, judged
    by that record alone. The test is McNemar's, exact and two-sided, at 5 %; where both models are in one tier of a
    board, the p-value that its ranks rest on (Holm over all pairs of the tier) stands beside it.
    """
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore
    from robustbench_gkl.results.compare import compare

    console = make_console(quiet=quiet)
    for found in compare(ResultStore(results_dir, strict=strict), first, second):
        for line in _lines(found):
            console.print(line, markup=False)


def _lines(found: Comparison) -> list[str]:
    counts, (low, high) = found.counts, found.counts.interval()
    one, other, board = found.first.name, found.second.name, found.first.entry.board
    p = f"p = {counts.p_value:.2g}"
    if found.adjusted_p is not None:
        p += f" ({found.adjusted_p:.2g} among all pairs of the tier {found.first.entry.tier.name})"
    lines = [
        f"{board.dataset} {board.split}, {board.threat}: {found.verdict}",
        f"  {one} {_percent(counts.both + counts.first_only, counts.n)} ({_through(found.first)}), "
        f"{other} {_percent(counts.both + counts.second_only, counts.n)} ({_through(found.second)}) "
        f"on {counts.n} shared samples",
        *(f"  {bracket}" for side in (found.first, found.second) if (bracket := _bracket(side))),
        f"  difference {100 * counts.difference:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}",
        f"  only {one} stands: {counts.first_only}, only {other} stands: {counts.second_only}, {p}",
    ]
    if found.first.entry.tier != found.second.entry.tier:
        lines.append("  not attacked alike: the model that went through less may look better for that alone")
    needed = counts.samples_needed()
    if not counts.significant and needed is not None:
        lines.append(f"  about {needed:,} samples would show a difference of this size in four of five tries")
    return lines


def _bracket(side: Side) -> str:
    """Return between what the robust accuracy of a model lies, on its own samples; nothing without certificates."""
    from robustbench_gkl.results.statistics import wilson_interval

    entry = side.entry
    if entry.proved is None or entry.stands is None:
        return ""
    n = entry.board.n
    low, high = (100 * end for end in wilson_interval(entry.proved, n))
    return (
        f"{side.name}: certified {_percent(entry.proved, n)} (95 % interval {low:.2f} to {high:.2f}), not broken "
        f"{_percent(entry.standing, n)}: its robust accuracy on these {n} samples lies between"
    )


def _through(side: Side) -> str:
    """Return the strongest attack that a model has completed, or what it lacks."""
    return side.entry.tier.name or f"lacks {side.entry.lacks}"


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.2f} %"
