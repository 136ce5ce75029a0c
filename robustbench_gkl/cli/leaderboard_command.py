"""``gklbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click

from robustbench_gkl.cli import options


@click.command()
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the table as CSV.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write the table as Markdown.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table as JSON.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write one page that works from disk.")
@click.option("--dataset", help="Only this data set.")
@options.eps
@options.results_dir
@options.quiet
def command(
    csv_path: Path | None,
    markdown_path: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    dataset: str | None,
    eps: str | None,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Rank all evaluated models: a table on the terminal, and files where asked for."""
    from robustbench_gkl.report.terminal import leaderboard_table, make_console
    from robustbench_gkl.results.leaderboard import leaderboard, save_table

    frame = leaderboard(results_dir, dataset=dataset, eps=eps)
    console = make_console(quiet=quiet)
    if frame.empty:
        console.print(f"no records in {results_dir} match; evaluate a model with gklbench eval", markup=False)
    elif not (csv_path or markdown_path or json_path or html_path):
        console.print(leaderboard_table(frame))
    for path, form in ((csv_path, "csv"), (markdown_path, "markdown"), (json_path, "json")):
        if path is not None:
            save_table(frame, path, form=form)
            console.print(f"wrote {path}", markup=False)
    if html_path is not None:
        from robustbench_gkl.report.html import save_leaderboard_page

        save_leaderboard_page(frame, html_path)
        console.print(f"wrote {html_path}", markup=False)
