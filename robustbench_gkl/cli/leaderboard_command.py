"""``gklbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click

from robustbench_gkl.cli import options
from robustbench_gkl.errors import UserError


@click.command()
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the table as CSV.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write the table as Markdown.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table as JSON.")
@click.option("--dataset", help="Only this data set.")
@options.eps
@click.option("--corruptions", is_flag=True, help="Rank by mean corruption accuracy instead.")
@options.results_dir
@options.quiet
def command(
    csv_path: Path | None,
    markdown_path: Path | None,
    json_path: Path | None,
    dataset: str | None,
    eps: str | None,
    corruptions: bool,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Rank all evaluated models: a table on the terminal, and files where asked for."""
    from robustbench_gkl.report.terminal import leaderboard_table, make_console
    from robustbench_gkl.results.corruptions import corruption_leaderboard
    from robustbench_gkl.results.leaderboard import leaderboard, save_table

    if corruptions and eps is not None:
        raise UserError("--corruptions has no --eps: corrupted images lie in no ball; give one of them")
    if corruptions:
        frame = corruption_leaderboard(results_dir, dataset=dataset)
    else:
        frame = leaderboard(results_dir, dataset=dataset, eps=eps)
    console = make_console(quiet=quiet)
    if frame.empty:
        console.print(f"no records in {results_dir} match; evaluate a model with gklbench eval", markup=False)
    elif not (csv_path or markdown_path or json_path):
        console.print(leaderboard_table(frame))
    for path, form in ((csv_path, "csv"), (markdown_path, "markdown"), (json_path, "json")):
        if path is not None:
            save_table(frame, path, form=form)
            console.print(f"wrote {path}", markup=False)
