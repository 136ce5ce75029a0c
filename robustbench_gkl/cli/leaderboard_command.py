"""``gklbench leaderboard``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.cli.starting import starting
from robustbench_gkl.core.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


@sections.command(
    examples=["gklbench leaderboard --dataset digits", "gklbench leaderboard --where loss=gkl --csv gkl.csv"]
)
@sections.output("--csv", "csv", type=options.PATH, help="Write the table as CSV.")
@sections.output("--markdown", "markdown", type=options.PATH, help="Write the table as Markdown.")
@sections.output("--json", "json", type=options.PATH, help="Write the table as JSON.")
@sections.output("--latex", "latex", type=options.PATH, help="Write the table as LaTeX (booktabs).")
@sections.output("--html", "html_path", type=options.PATH, help="Write one page that works from disk.")
@sections.output("--model-info", type=options.PATH, metavar="DIR", help="Write RobustBench's model_info JSON files.")
@sections.what("--dataset", type=named.DATASET, help="Only this data set.")
@options.eps
@sections.what("--where", "filters", multiple=True, metavar="COLUMN=VALUE", help="Only rows with this value.")
@sections.what("--sort", metavar="COLUMN", help="Order by this column; -COLUMN puts the largest first.")
@sections.what("--seeds", "average_seeds", is_flag=True, help="Average models that differ in the training seed only.")
@sections.what("--all", "all_models", is_flag=True, help="Superseded models of a name too.")
@sections.what(
    "--reference",
    metavar="SPEC",
    help="Rank by this attack alone, which worst_case_acc is then the accuracy under; models without it have no rank.",
)
@sections.what("--top", type=click.IntRange(min=1), default=500, show_default=True, help="Rows shown on the terminal.")
@sections.what("--published", is_flag=True, help="Add RobustBench's models and other published results.")
@sections.what("--corruptions", is_flag=True, help="Rank by mean corruption accuracy instead.")
@options.strict
@options.results_dir
@options.quiet
def command(
    html_path: Path | None,
    model_info: Path | None,
    dataset: str | None,
    eps: str | None,
    filters: tuple[str, ...],
    sort: str | None,
    average_seeds: bool,
    all_models: bool,
    reference: str | None,
    top: int,
    published: bool,
    corruptions: bool,
    strict: bool,
    results_dir: Path,
    quiet: bool,
    **paths: Path | None,
) -> None:
    """Rank all evaluated models: a table on the terminal, and files where asked for.

    A board is a data set, split, sample set and threat. Its models stand in tiers by the strongest attack that they
    have completed, and are ranked in their tier by what nothing known has broken. A rank is 1 + the number of models
    that are significantly better. Filters choose rows and change no ranks.
    """
    ours = eps is not None or average_seeds or all_models or reference is not None or published or model_info
    if corruptions and ours:
        raise UserError(
            "--corruptions goes with none of --eps, --seeds, --all, --reference, --published and --model-info"
        )
    if average_seeds and all_models:
        raise UserError("--seeds is over the newest models of a name; leave out --all")
    if model_info and (average_seeds or reference is not None):
        raise UserError("--model-info is of single models under AutoAttack; leave out --seeds and --reference")
    with starting():  # thousands of small objects that stay
        from robustbench_gkl.attacks import parse_attack
        from robustbench_gkl.report.terminal import make_console
        from robustbench_gkl.report.terminal_boards import print_leaderboard
        from robustbench_gkl.results.corruptions import corruption_leaderboard
        from robustbench_gkl.results.leaderboard import leaderboard

        if corruptions:
            frame = corruption_leaderboard(results_dir, dataset=dataset, strict=strict)
        else:
            frame = leaderboard(
                results_dir,
                dataset=dataset,
                eps=eps,
                average_seeds=average_seeds,
                strict=strict,
                all_models=all_models,
                reference=None if reference is None else parse_attack(reference).canonical,
            )
    console = make_console(quiet=quiet)
    if published:
        frame = _with_published(frame, dataset, eps, console)
    frame = _selected(frame, filters, sort)
    written = _save(frame, paths, html_path, model_info, whole=not filters)
    for path in written:
        console.print(f"wrote {path}", markup=False)
    if frame.empty:
        console.print(f"no records in {results_dir} match; evaluate a model with gklbench eval", markup=False)
    elif not written:
        print_leaderboard(frame.head(top), console)
        if len(frame) > top:
            console.print(f"{len(frame) - top:,} more rows; --top {len(frame)} shows all", markup=False)


def _with_published(frame: pd.DataFrame, dataset: str | None, eps: str | None, console: Console) -> pd.DataFrame:
    from robustbench_gkl.results.published_rows import published_datasets, with_published

    joined = with_published(frame, dataset=dataset, eps=eps)
    if len(joined) == len(frame):
        known = ", ".join(published_datasets())
        console.print(f"no published results on these data sets; there are some on {known}", markup=False)
    return joined


def _save(
    frame: pd.DataFrame,
    tables: Mapping[str, Path | None],
    html_path: Path | None,
    model_info: Path | None,
    *,
    whole: bool,
) -> list[Path]:
    """Write the files that were asked for, and return their paths; ``whole`` says that no rows are filtered out."""
    from robustbench_gkl.results.export import save_model_info, save_table

    written = []
    for form, path in tables.items():
        if path is not None:
            save_table(frame, path, form=form)
            written.append(path)
    if html_path is not None:
        from robustbench_gkl.report.html import save_leaderboard_page

        save_leaderboard_page(frame, html_path, whole=whole)
        written.append(html_path)
    if model_info is not None:
        written += save_model_info(frame, model_info)
    return written


def _selected(frame: pd.DataFrame, filters: tuple[str, ...], sort: str | None) -> pd.DataFrame:
    for item in filters:
        column, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--where needs COLUMN=VALUE, such as loss=gkl; got {item!r}")
        frame = frame[_column(frame, column).astype(str) == value]
    if sort is not None:
        keys: Any = _column(frame, sort.removeprefix("-"))
        frame = frame.loc[keys.sort_values(ascending=not sort.startswith("-"), kind="stable").index]
    return frame


def _column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in frame.columns:
        raise unknown("column", name, frame.columns)
    return frame[name]
