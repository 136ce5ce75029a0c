"""``gklbench compare``."""

from __future__ import annotations

from pathlib import Path

import click

from robustbench_gkl.cli import options


@click.command()
@click.argument("first")
@click.argument("second")
@options.strict
@options.results_dir
@options.quiet
def command(first: str, second: str, strict: bool, results_dir: Path, quiet: bool) -> None:
    """Say which of two models is ahead, on the samples that both were evaluated on.

    FIRST and SECOND are names of models or ids of records. The test is McNemar's, exact and two-sided, at 5 %.
    """
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore
    from robustbench_gkl.results.compare import compare

    console = make_console(quiet=quiet)
    for found in compare(ResultStore(results_dir, strict=strict), first, second):
        counts, (low, high) = found.counts, found.counts.interval()
        record = found.first
        attacks = ", ".join(attack.label for attack in record.attacks)
        lines = [
            f"{record.data.dataset} {record.data.split}, {record.threat}, {attacks}: {found.verdict}",
            f"  {found.first.model.name} {_percent(counts.both + counts.first_only, counts.n)}, "
            f"{found.second.model.name} {_percent(counts.both + counts.second_only, counts.n)} "
            f"on {counts.n} shared samples",
            f"  difference {100 * counts.difference:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}",
            f"  only {found.first.model.name} stands: {counts.first_only}, "
            f"only {found.second.model.name} stands: {counts.second_only}, p = {counts.p_value:.2g}",
        ]
        needed = counts.samples_needed()
        if not counts.significant and needed is not None:
            lines.append(f"  about {needed:,} samples would show a difference of this size in four of five tries")
        for line in lines:
            console.print(line, markup=False)


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.2f} %"
