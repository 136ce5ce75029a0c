"""``gklbench suite``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.cli.stopping import stop_on_signals
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from robustbench_gkl.report.suite_display import SuiteDisplay
    from robustbench_gkl.suite import Suite
    from robustbench_gkl.suite.state import SuiteState


@sections.command(
    examples=["gklbench suite digits --dry-run", "gklbench suite mine.toml --set train.epochs=8 --jobs 2"]
)
@click.argument("file", type=named.SUITE)
@sections.what("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Such as train.epochs=8 or eval.n=64.")
@sections.output("--dry-run", is_flag=True, help="Say what would run and for how long; run nothing.")
@sections.what("--retry", is_flag=True, help="Run failed cells again.")
@sections.output("--overwrite", is_flag=True, help="Replace runs of the same names that this suite did not make.")
@sections.how("--launcher", type=click.Choice(["local", "slurm"]), default="local", show_default=True)
@sections.how("--jobs", type=click.IntRange(min=1), help="Local workers (default: one per GPU, or as cores allow).")
@sections.how(
    "--slurm", "slurm_file", type=options.PATH, metavar="FILE.json", help="Partition, time limit and the like."
)
@sections.how("--no-wait", is_flag=True, help="Queue the Slurm jobs and return; the same command looks after them.")
@sections.output("--csv", "csv", type=options.PATH, help="Write the leaderboard of the suite's own records as CSV.")
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(
    file: str,
    assignments: tuple[str, ...],
    dry_run: bool,
    retry: bool,
    overwrite: bool,
    launcher: str,
    jobs: int | None,
    slurm_file: Path | None,
    no_wait: bool,
    csv: Path | None,
    device: str,
    data_dir: Path,
    checkpoints_dir: Path,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Run the trainings and evaluations of a suite that are not done yet.

    FILE is a .toml file, or the name of a suite that comes with the package (gklbench list suites).

    A cell is done when a run with its settings, or a record of its evaluation, is there, whoever made it. Failed cells
    stop no others and are kept until --retry. Interrupted, the same command goes on.
    """
    from robustbench_gkl.core.plugins import loaded_plugins
    from robustbench_gkl.report.suite_display import SuiteDisplay
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.suite import read_suite
    from robustbench_gkl.suite.ledger import Folders, Ledger
    from robustbench_gkl.suite.local import only_one
    from robustbench_gkl.suite.state import SuiteState

    slurm = launcher == "slurm"
    if (slurm_file or no_wait) and not slurm:
        raise UserError("--slurm and --no-wait belong to --launcher slurm")
    suite = read_suite(Path(file), assignments=assignments, checkpoints_dir=checkpoints_dir)
    folders = Folders(checkpoints_dir, results_dir, data_dir, device, tuple(loaded_plugins()))
    ledger, console = Ledger(suite.name, folders), make_console(quiet=quiet)
    if dry_run:
        _foretell(SuiteState(suite.cells, ledger, retry=retry), jobs, console, overwrite=overwrite)
        return
    ledger.prepare()
    with only_one(ledger.folder) as lock:
        state = SuiteState(suite.cells, ledger, retry=retry)
        if not overwrite:
            ledger.refuse_to_overwrite(state.left())
        with stop_on_signals() as should_stop, SuiteDisplay(console, state.counts) as display:
            display.line(display.summary())
            _show_failures(state, display)
            if slurm:
                _run_slurm(state, display, slurm_file, wait=not no_wait)
            else:
                _run_local(state, display, jobs, lock=lock, should_stop=should_stop)
    _finish(suite, state, csv, console)


def _run_local(
    state: SuiteState, display: SuiteDisplay, jobs: int | None, *, lock: int, should_stop: Callable[[], bool]
) -> None:
    """Run what is left in processes of this machine."""
    from robustbench_gkl.suite.local import run_local, worker_environments

    workers = worker_environments(jobs=jobs, device=state.ledger.folders.device, cells=len(state.left()))
    run_local(state, display, workers, lock=lock, should_stop=should_stop)
    if should_stop():
        display.line(display.summary())
        raise KeyboardInterrupt("interrupted; the same command goes on from here")


def _run_slurm(state: SuiteState, display: SuiteDisplay, slurm_file: Path | None, *, wait: bool) -> None:
    """Queue what is left, and look after it if ``wait``."""
    from robustbench_gkl.suite.partition import read_settings
    from robustbench_gkl.suite.slurm import SlurmQueue

    queue = SlurmQueue(state, display, read_settings(slurm_file))
    queue.submit()
    if not wait:
        display.line(display.summary())
        return
    with stop_on_signals() as should_stop:
        queue.wait(should_stop=should_stop)
        if should_stop():
            jobs = ", ".join(sorted({job.partition("_")[0] for job in queue.jobs}))
            raise KeyboardInterrupt(f"the jobs go on ({jobs}); the same command looks after them, scancel ends them")


def _show_failures(state: SuiteState, display: SuiteDisplay) -> None:
    """Show what failed in earlier calls."""
    for cell in state.cells:
        outcome = state.ledger.outcome(cell)
        if state.statuses[cell.key] == "failed" and outcome is not None:
            why = outcome.lines[-1] if outcome.lines else "its log is empty"
            display.line(f"failed before (--retry runs it again): {cell}, exit code {outcome.exit_code}: {why}")


def _finish(suite: Suite, state: SuiteState, csv: Path | None, console: Console) -> None:
    """Print the leaderboard and what is missing from it, and exit with 1 if anything is.

    Its boards are built from the suite's records alone: what else the results folder holds changes nothing.
    """
    from robustbench_gkl.report.terminal_boards import print_leaderboard
    from robustbench_gkl.results.export import save_table
    from robustbench_gkl.results.leaderboard import leaderboard
    from robustbench_gkl.suite import TrainCell

    found = [state.ledger.record(cell) for cell in suite.evaluations if state.statuses[cell.key] == "done"]
    ids = {record.id for record in found if record is not None}
    if ids:
        frame = leaderboard(state.ledger.folders.results, ids=ids)
        print_leaderboard(frame, console)
        if csv is not None:
            save_table(frame, csv, form="csv")
            console.print(f"wrote {csv}", markup=False)
    elif csv is not None:
        console.print("nothing was evaluated yet, so there is no table to write")
    counts = state.counts()
    for cell in state.cells:
        if state.statuses[cell.key] == "blocked" and isinstance(cell, TrainCell):
            before = " and ".join(other.run for other in cell.after if state.statuses[other.key] != "done")
            console.print(f"not trained: {cell.run}, for it needs {before}, which failed", markup=False)
    if counts["failed"] or counts["blocked"]:
        click.echo(
            f"Error: {counts['failed']} cells failed and {counts['blocked']} wait for them; logs are in "
            f"{state.ledger.folder / 'logs'}, --retry runs them again",
            err=True,
        )
    if counts["interrupted"]:
        click.echo(f"Error: {counts['interrupted']} cells were cut off; the same command goes on with them", err=True)
    if counts["failed"] or counts["blocked"] or counts["interrupted"]:
        click.get_current_context().exit(1)


def _foretell(state: SuiteState, jobs: int | None, console: Console, *, overwrite: bool) -> None:
    """Print which cells would run and for how long."""
    from rich.table import Column, Table
    from rich.text import Text

    from robustbench_gkl.report.live import duration
    from robustbench_gkl.report.suite_display import SuiteDisplay
    from robustbench_gkl.suite.local import worker_environments

    display, left = SuiteDisplay(console, state.counts), state.left()
    table = Table("cell", "why", Column("time", justify="right"), box=None, pad_edge=False, header_style="bold")
    for cell in left:
        seconds = state.estimate(cell)
        table.add_row(Text(str(cell)), state.reason(cell), "unknown" if seconds is None else duration(seconds))
    if left:
        console.print(table)
    _show_failures(state, display)
    workers = len(worker_environments(jobs=jobs, device=state.ledger.folders.device, cells=len(left)))
    estimates = [state.estimate(cell) for cell in left]
    total = state.seconds_left(workers)
    if total is None:
        known = [seconds for seconds in estimates if seconds is not None]
        time = f"at least {duration(sum(known) / workers)} ({len(left) - len(known)} cells unknown)"
    else:
        time = duration(total)
    console.print(display.summary())
    console.print(f"would run {len(left)} cells, {time} with {workers} workers", markup=False)
    if not overwrite:
        state.ledger.refuse_to_overwrite(left)
