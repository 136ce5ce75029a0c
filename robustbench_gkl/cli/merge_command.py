"""``gklbench merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from robustbench_gkl.cli import options, sections
from robustbench_gkl.core.errors import UserError


@sections.command(examples=["gklbench eval gkl --shard 1/2", "gklbench eval gkl --shard 2/2", "gklbench merge"])
@click.argument("records", nargs=-1, metavar="[RECORD]...")
@options.save_adversarial
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(
    records: tuple[str, ...],
    save_adversarial: int | Literal["all"],
    device: str,
    data_dir: Path,
    checkpoints_dir: Path,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Join what the shards of evaluations have left in the results folder into records.

    RECORD is the name that eval --shard prints; without one, all evaluations that have parts there are joined. Shards
    made on machines that share no folder must be brought together first: copy verdicts/*.partial.* of each into one.

    The record is that of a single process. Nothing is attacked again, but the model is looked at: it must be in the
    checkpoints folder. Where samples are missing, it says of which shards and exits with 2; the parts stay.
    """
    from robustbench_gkl.core.device import resolve_device
    from robustbench_gkl.evaluation.shards import merge_parts
    from robustbench_gkl.evaluation.workspace import Workspace
    from robustbench_gkl.report.record import record_lines, saved_lines
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore

    store = ResultStore(results_dir)
    found = list(records) or store.under_way()
    if not found:
        raise UserError(f"there are no parts to join in {store.folder}; evaluate with --shard first")
    console = make_console(quiet=quiet)
    workspace = Workspace(
        store, resolve_device(device), data_dir, on_wait=lambda line: console.print(line, markup=False)
    )
    problems = []
    for record_id in found:
        try:
            outcome = merge_parts(
                record_id, workspace, checkpoints_dir=checkpoints_dir, save_adversarial=save_adversarial
            )
        except UserError as error:
            problems.append(str(error))
            continue
        for line in record_lines(outcome.record, reused=outcome.reused):
            console.print(line, markup=False)
        if save_adversarial:
            for line in saved_lines(outcome.record, store):
                console.print(line, markup=False)
    if problems:
        raise UserError("; ".join(problems))
