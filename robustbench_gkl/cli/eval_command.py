"""``gklbench eval``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from robustbench_gkl.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from robustbench_gkl.evaluation.job import Outcome
    from robustbench_gkl.report.terminal import LiveProgress
    from robustbench_gkl.results.record import Check


@click.command()
@click.argument("model")
@click.option("--attack", "attacks", multiple=True, metavar="SPEC", help="NAME or NAME:key=value,...; may be repeated.")
@click.option("--dataset", help="Evaluate on this data set; the run's own if not given.")
@click.option("--split", type=click.Choice(["test", "train"]), help="Which images (default: test).")
@click.option("--n", type=int, help="Only the first N images.")
@options.norm
@options.eps
@click.option("--weights", type=click.Choice(["best", "last", "average"]), help="Which of the run's weights.")
@click.option("--engine", type=click.Choice(["native", "reference"]), help="Our attacks or the published packages.")
@click.option("--batch-size", type=int, help="Images at a time (default: 250).")
@options.seed
@click.option(
    "--fail-under", type=click.FloatRange(0, 100), metavar="PERCENT", help="Exit 1 below it (robust accuracy)."
)
@click.option("--overwrite", is_flag=True, help="Measure again even if this evaluation was done before.")
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(model: str, attacks: tuple[str, ...], **given: Any) -> None:
    """Attack MODEL (a run's name or folder) and record what stands.

    Attacks run in the order given, each on the samples that the ones before left standing (default: autoattack).
    Interrupted, the same command goes on where it was.
    """
    from robustbench_gkl.config import EvalConfig, validated
    from robustbench_gkl.device import resolve_device
    from robustbench_gkl.evaluation.job import evaluate_run
    from robustbench_gkl.report.terminal import LiveProgress, make_console
    from robustbench_gkl.results import ResultStore
    from robustbench_gkl.training import find_run

    run = find_run(model, checkpoints_dir=given["checkpoints_dir"])
    source = run.config()
    values: dict[str, Any] = {"dataset": source.dataset}
    if source.train is not None:
        values["threat"] = source.train.threat.model_dump(mode="json")
    values.update(options.given(**{key: given[key] for key in _KEYS}))
    values["threat"] = values.get("threat", {}) | options.given(norm=given["norm"], eps=given["eps"])
    if attacks:
        values["attacks"] = attacks
    config = validated(EvalConfig, values, what="evaluation")
    device = resolve_device(given["device"])
    console = make_console(quiet=given["quiet"])
    console.print(f"evaluating {run.name} on {config.dataset}, {config.threat.threat()}, on {device}", markup=False)
    with LiveProgress(console) as progress:
        outcome = evaluate_run(
            config,
            run,
            ResultStore(given["results_dir"]),
            weights=given["weights"],
            device=device,
            data_dir=given["data_dir"],
            overwrite=given["overwrite"],
            on_checks=lambda checks: _warn(checks, progress),
            on_progress=lambda event: progress.update(
                event.stage,
                event.done,
                event.total,
                note=f"robust accuracy at most {100 * event.standing / event.n:.2f} %",
            ),
        )
    _report(outcome, console)
    threshold, reached = given["fail_under"], outcome.record.worst_case_acc
    if threshold is not None and reached < threshold:
        click.echo(f"Error: robust accuracy {reached:.2f} % is below --fail-under {threshold:g}", err=True)
        click.get_current_context().exit(1)


_KEYS = ("dataset", "split", "n", "engine", "batch_size", "seed")


def _warn(checks: Sequence[Check], progress: LiveProgress) -> None:
    """Say before the long work which checks fail."""
    for check in checks:
        if check.verdict == "FAIL":
            progress.line(f"FAIL {check.name}, so never ranked: {check.figure}. {check.advice}")


def _report(outcome: Outcome, console: Console) -> None:
    from robustbench_gkl.results.statistics import wilson_interval

    record = outcome.record
    if outcome.reused:
        console.print(f"already evaluated on {record.created[:16]}; nothing was run (--overwrite to run again)")
    console.print(f"clean accuracy      {record.clean_acc:6.2f} %  ({record.data.n} samples)")
    for attack in record.attacks:
        console.print(f"after {attack.label:13} {attack.robust_acc:6.2f} %", markup=False)
        if len(attack.stages) > 1:
            broken = ", ".join(f"{stage.name} {stage.broken}" for stage in attack.stages)
            console.print(f"  broken by: {broken}", markup=False)
    low, high = wilson_interval(round(record.worst_case_acc * record.data.n / 100), record.data.n)
    interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
    console.print(f"robust accuracy     {record.worst_case_acc:6.2f} %  ({interval})")
    for check in record.checks:
        if check.verdict != "PASS":
            console.print(f"{check.verdict} {check.name}: {check.figure}. {check.advice}", markup=False)
    console.print(f"record {record.id}, {record.seconds:.1f} s", markup=False)
