"""``gklbench reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import options
from robustbench_gkl.errors import UserError

if TYPE_CHECKING:
    from robustbench_gkl.results import Record


@click.command()
@click.argument("row")
@click.option("--dry-run", is_flag=True, help="Only print the commands.")
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
def command(row: str, dry_run: bool, device: str, data_dir: Path, checkpoints_dir: Path, results_dir: Path) -> None:
    """Print and run the commands that made ROW (a model's name or a record's id), and compare the figures.

    The model is trained again as NAME-reproduced; an imported one is evaluated again as it is.
    """
    from robustbench_gkl.cli import group
    from robustbench_gkl.report.reproduce import eval_command, shell_text, train_command
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore

    store, console = ResultStore(results_dir), make_console()
    chosen = [record for record in store.records() if row in (record.model.name, record.id)]
    if not chosen:
        raise UserError(f"no record of {row!r} in {results_dir}; gklbench leaderboard shows the models there are")
    folders = ["--device", device, "--data-dir", str(data_dir), "--checkpoints-dir", str(checkpoints_dir)]

    def call(words: list[list[str]], more: list[str]) -> None:
        console.print(f"$ {shell_text([*words, more])}", markup=False)
        if not dry_run:
            arguments = [word for group_ in words for word in group_][1:]
            group.main([*arguments, *more], standalone_mode=False)

    def again(record: Record) -> Record:
        trained = train_command(record)
        name = record.model.name if trained is None else f"{record.model.name}-reproduced"
        return record.model_copy(update={"model": record.model.model_copy(update={"name": name})})

    training = train_command(again(chosen[0]))
    if training is not None:
        call(training, ["--overwrite", *folders])
    done: list[list[list[str]]] = []
    for record in chosen:
        evaluation = eval_command(again(record))
        if evaluation is None:
            raise UserError(f"record {record.id} was made on chosen samples, which no option asks for")
        if evaluation not in done:  # one command makes all records of a grid of radii
            call(evaluation, ["--overwrite", *folders, "--results-dir", str(results_dir)])
            done.append(evaluation)
    if not dry_run:
        for record in chosen:
            name = again(record).model.name
            new = max(
                (found for found in store.records() if found.model.name == name and _same(found, record)),
                key=lambda found: found.created,
            )
            console.print(f"{name}: {new.worst_case_acc:.2f} %, before {record.worst_case_acc:.2f} %", markup=False)


def _same(one: Record, other: Record) -> bool:
    return (one.data, str(one.threat), one.protocol_sha256) == (other.data, str(other.threat), other.protocol_sha256)
