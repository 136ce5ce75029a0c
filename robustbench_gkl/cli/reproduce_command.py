"""``gklbench reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_gkl.results import Record


@sections.command(examples=["gklbench reproduce gkl --dry-run"])
@click.argument("row", type=named.RUN)
@sections.output("--dry-run", is_flag=True, help="Only print the commands.")
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.strict
def command(
    row: str, dry_run: bool, device: str, data_dir: Path, checkpoints_dir: Path, results_dir: Path, strict: bool
) -> None:
    """Print and run the commands that made ROW (a model's name or a record's id), and compare the figures.

    The model is trained again as NAME-reproduced; an imported one is evaluated again, under that name. Of several
    models that had the name, it is the newest.
    """
    from robustbench_gkl.cli import group
    from robustbench_gkl.report.reproduce import Command, eval_command, shell_text, train_command, unknown_question
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore

    store, console = ResultStore(results_dir, strict=strict), make_console()
    chosen = [record for record in store.records() if row in (record.model.name, record.id)]
    if not chosen:
        raise UserError(f"no record of {row!r} in {results_dir}; gklbench leaderboard shows the models there are")
    newest = max(chosen, key=lambda record: record.created).model.model_sha256
    chosen = [record for record in chosen if record.model.model_sha256 == newest]
    folders = ["--device", device, "--data-dir", str(data_dir), "--checkpoints-dir", str(checkpoints_dir)]

    def call(words: Command, more: list[str]) -> None:
        console.print(f"$ {shell_text([*words, more])}", markup=False)
        if not dry_run:
            arguments = [word for group_ in words for word in group_][1:]
            group.main([*arguments, *more], standalone_mode=False)

    name = f"{chosen[0].model.name}-reproduced"
    training = train_command(chosen[0], name=name)
    evaluations: list[Command] = []
    for record in chosen:
        trained = {"model": name} if training is not None else {"name": name}
        evaluation = eval_command(record, **trained)
        if evaluation is None:
            raise UserError(unknown_question(record))
        if evaluation not in evaluations:  # one command makes all records of a grid of radii
            evaluations.append(evaluation)
    if training is not None:
        call(training, ["--overwrite", *folders])
    for evaluation in evaluations:
        call(evaluation, ["--overwrite", *folders, "--results-dir", str(results_dir)])
    for record in chosen if not dry_run else ():
        again = [found for found in store.records(of={name}) if _same(found, record)]
        if not again:
            raise UserError(
                f"{record.data.dataset} holds other images now than those of {record.id}, so no figures compare"
            )
        new = max(again, key=lambda found: found.created)
        console.print(f"{name}: {new.worst_case_acc:.2f} %, before {record.worst_case_acc:.2f} %", markup=False)


def _same(one: Record, other: Record) -> bool:
    """Return whether two records answer the same question about the same samples; that of ``other`` is known."""
    assert other.config is not None
    same = one.config is not None and one.config.model_copy(update={"batch_size": other.config.batch_size})
    return one.data.sha256 == other.data.sha256 and same == other.config
