"""``gklbench eval``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.cli.evaluating import Evaluated, resumable, seconds_of, workspace_of
from robustbench_gkl.cli.starting import starting
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from robustbench_gkl.config.schema import EvalConfig
    from robustbench_gkl.ranks.exchange import Exchange
    from robustbench_gkl.results import ResultStore
    from robustbench_gkl.results.record import Record
    from robustbench_gkl.sources.source import ModelSource


@sections.command(
    examples=[
        "gklbench eval gkl --attack pgd:steps=20 --attack autoattack",
        "gklbench eval net.py:build --name mine --dataset digits --eps 0.1",
        "torchrun --nproc-per-node 8 -m -- robustbench_gkl eval gkl --n 1000",
    ]
)
@options.model_argument
@sections.what(
    "--attack",
    "attacks",
    type=named.ATTACK,
    multiple=True,
    metavar="SPEC",
    help="NAME or NAME:key=value,...; may be repeated.",
)
@sections.what("--dataset", type=named.DATASET, help="Evaluate on this data set; the model's own if not given.")
@sections.what("--split", type=click.Choice(["test", "train"]), help="Which images (default: test).")
@sections.what("--n", type=int, help="Only the first N images.")
@options.norm
@options.eps
@sections.threat("--eps-grid", metavar="E,E,...", help="One attack at several radii, such as 0,1/255,2/255,4/255.")
@sections.output("--name", help="The model's name on the board; a run's own if not given.")
@sections.how("--engine", type=click.Choice(["native", "reference"]), help="Our attacks or the published packages.")
@sections.budget("--batch-size", metavar="N|auto", help="Images at a time (default: 250); auto: the fastest.")
@sections.budget("--time-limit", metavar="TIME", help="Stop after 90s, 30m or 2h with a partial record.")
@sections.budget("--shard", metavar="K/N", help="Only each N-th sample, from the K-th on; join with gklbench merge.")
@sections.how(
    "--search-precision",
    type=click.Choice(["float32", "tf32", "bf16"]),
    help="Search in less precision; successes are confirmed in float32.",
)
@sections.how("--compile", "compiled", is_flag=True, default=None, help="Search with torch.compile.")
@sections.how(
    "--certify",
    is_flag=True,
    help="After the first stage prove samples by bounds; those that are proved are spared the rest. Same verdicts.",
)
@options.seed
@sections.output(
    "--fail-under",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit 1 where robust accuracy is below it, or where nothing is ranked: a partial record, checks that FAIL.",
)
@sections.output("--overwrite", is_flag=True, help="Measure again even if this evaluation was done before.")
@options.save_adversarial
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(
    model: options.ModelArgument,
    attacks: tuple[str, ...],
    dataset: str | None,
    split: str | None,
    n: int | None,
    norm: str | None,
    eps: str | None,
    eps_grid: str | None,
    name: str | None,
    engine: str | None,
    batch_size: str | None,
    time_limit: str | None,
    shard: str | None,
    search_precision: str | None,
    compiled: bool | None,
    certify: bool,
    seed: int | None,
    fail_under: float | None,
    overwrite: bool,
    save_adversarial: int | Literal["all"],
    device: str,
    data_dir: Path,
    checkpoints_dir: Path,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Attack MODEL (a run's name or folder) and record what stands.

    Attacks run in the order given, each on the samples that the ones before left standing (default: autoattack);
    --attack none measures clean accuracy alone. Interrupted, the same command goes on where it was. Several GPUs share
    the samples under torchrun.
    """
    from robustbench_gkl.config.options import evaluation_config, parse_grid, usual_note
    from robustbench_gkl.data.facts import usual_threat
    from robustbench_gkl.report.live import LiveProgress
    from robustbench_gkl.report.record import saved_lines
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore

    source = model.source(checkpoints_dir, dataset=dataset, norm=norm)
    if eps_grid is not None and (eps or time_limit or save_adversarial or shard or fail_under is not None):
        raise UserError("--eps-grid goes with none of --eps, --time-limit, --shard, --save-adversarial, --fail-under")
    if shard is not None and (save_adversarial or fail_under is not None):
        raise UserError("--shard goes with neither --save-adversarial (give it to gklbench merge) nor --fail-under")
    if "none" in attacks and (norm, eps, eps_grid) != (None, None, None):
        raise UserError("--attack none measures clean accuracy, which no --norm, --eps or --eps-grid changes")
    if certify and (eps_grid is not None or engine == "reference" or "none" in attacks):
        raise UserError("--certify goes with none of --eps-grid, --engine reference, --attack none")
    asked = options.given(
        dataset=dataset,
        split=split,
        n=n,
        attacks=attacks or None,
        engine=engine,
        batch_size=batch_size,
        seed=seed,
        search_precision=search_precision,
        compiled=compiled,
        eps_grid=None if eps_grid is None else parse_grid(eps_grid),
    )
    threat = options.given(norm=norm, eps=eps)
    config = evaluation_config(source.native(), asked=asked, threat=threat, usual=usual_threat, what="evaluation")
    options.refuse_unknown(dataset=config.dataset)
    store, limit = ResultStore(results_dir), None if time_limit is None else seconds_of("--time-limit", time_limit)
    anew = overwrite or eps_grid is not None or shard is not None or bool(save_adversarial) or device not in _ANYWHERE
    if not anew and (known := _answered(config, source, store, data_dir, name)) is not None:
        _report_known(known, make_console(quiet=quiet), fail_under, certify=certify)
        return
    with starting():
        import robustbench_gkl.evaluation.recorded  # noqa: F401
        from robustbench_gkl.evaluation.effort import Effort
        from robustbench_gkl.ranks.collectives import rank_device, world_from_environment
        from robustbench_gkl.ranks.exchange import exchange_of

    world = world_from_environment()
    on = rank_device(device, world)
    console = make_console(quiet=quiet or not world.leads)
    where = f"{config.dataset}, {config.threat.norm if eps_grid else config.threat}"
    where += usual_note(config, source.native(), threat=threat)
    by = f" by {world.size} ranks" if world.size > 1 else ""
    console.print(f"evaluating {name or source.name} on {where}, on {on}{by}", markup=False)
    with resumable(), LiveProgress(console) as progress:
        workspace = workspace_of(store, on, data_dir, exchange_of(world), progress)
        effort = Effort() if certify else None
        evaluated = Evaluated(config, source, workspace, name, overwrite, effort)
        if eps_grid is not None:
            outcomes = evaluated.at_all_radii()
        elif shard is not None:
            outcomes = evaluated.shard(shard, limit, progress)
        else:
            outcomes = [evaluated.whole(limit, save_adversarial)]
    records = [(outcome.record, outcome.reused) for outcome in outcomes]
    _report(records, console, grid=eps_grid is not None, certify=certify)
    if save_adversarial:
        for line in saved_lines(outcomes[0].record, workspace.store):
            console.print(line, markup=False)
    if fail_under is not None:
        _judge(outcomes[0].record, fail_under, workspace.exchange)


_ANYWHERE = ("auto", "cpu")
"""Devices that are there on each machine."""


def _answered(
    config: EvalConfig, source: ModelSource, store: ResultStore, data_dir: Path, name: str | None
) -> Record | None:
    """Return the record that is there already, where that is told without torch and by one process."""
    from robustbench_gkl.evaluation.answered import answered

    known = answered(config, source, store, data_dir=data_dir, name=name)
    return None if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else known


def _report_known(record: Record, console: Console, fail_under: float | None, *, certify: bool) -> None:
    _report([(record, True)], console, grid=False, certify=certify)
    if fail_under is not None:
        _judge(record, fail_under, None)


def _report(records: Sequence[tuple[Record, bool]], console: Console, *, grid: bool, certify: bool) -> None:
    """Print records, each with whether it was there already, and whether certificates that are wanted are not."""
    from robustbench_gkl.report.record import record_lines

    for record, reused in records:
        if grid:
            console.print(f"{record.threat!s:14} {record.worst_case_acc:6.2f} %  record {record.id}", markup=False)
        else:
            for line in record_lines(record, reused=reused):
                console.print(line, markup=False)
            if certify and reused and record.certified is None:
                console.print("it has no certificates: gklbench certify makes a record of them, which the board joins")


def _judge(record: Record, threshold: float, exchange: Exchange | None) -> None:
    """Exit with 1 unless a complete evaluation without failing checks reaches the threshold."""
    failed = [check.name for check in record.checks if check.verdict == "FAIL"]
    if record.partial:
        reason = "the record is partial, so its robust accuracy is only an upper bound"
    elif failed:
        reason = f"checks FAIL ({', '.join(failed)}), so its robust accuracy cannot be believed"
    elif record.worst_case_acc < threshold:
        reason = f"robust accuracy {record.worst_case_acc:.2f} % is below --fail-under {threshold:g}"
    else:
        return
    if exchange is None or exchange.world.leads:
        click.echo(f"Error: {reason}", err=True)
    if exchange is not None:
        exchange.gather(None)  # torchrun ends all ranks as soon as one is gone
    click.get_current_context().exit(1)
