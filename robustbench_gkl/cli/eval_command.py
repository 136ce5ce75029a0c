"""``gklbench eval``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from robustbench_gkl.cli import options
from robustbench_gkl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from robustbench_gkl.config import EvalConfig
    from robustbench_gkl.evaluation import Progress
    from robustbench_gkl.evaluation.job import Outcome
    from robustbench_gkl.report.terminal import LiveProgress
    from robustbench_gkl.results.record import Check
    from robustbench_gkl.runs import RunConfig


@click.command()
@click.argument("model")
@click.option("--attack", "attacks", multiple=True, metavar="SPEC", help="NAME or NAME:key=value,...; may be repeated.")
@click.option("--dataset", help="Evaluate on this data set; the run's own if not given.")
@click.option("--split", type=click.Choice(["test", "train"]), help="Which images (default: test).")
@click.option("--n", type=int, help="Only the first N images.")
@options.norm
@options.eps
@click.option("--eps-grid", metavar="E,E,...", help="One attack at several radii, such as 0,1/255,2/255,4/255.")
@click.option("--weights", type=click.Choice(["best", "last", "average"]), help="Which of the run's weights.")
@click.option("--engine", type=click.Choice(["native", "reference"]), help="Our attacks or the published packages.")
@click.option("--batch-size", metavar="N|auto", help="Images at a time (default: 250); auto: the fastest.")
@click.option("--time-limit", metavar="TIME", help="Stop after 90s, 30m or 2h with a partial record.")
@click.option("--shard", metavar="K/N", help="Only each N-th sample, from the K-th on; join with gklbench merge.")
@click.option(
    "--search-precision",
    type=click.Choice(["float32", "tf32", "bf16"]),
    help="Search in less precision; successes are confirmed in float32.",
)
@click.option("--compile", "compiled", is_flag=True, default=None, help="Search with torch.compile.")
@options.seed
@click.option(
    "--fail-under", type=click.FloatRange(0, 100), metavar="PERCENT", help="Exit 1 below it (robust accuracy)."
)
@click.option("--overwrite", is_flag=True, help="Measure again even if this evaluation was done before.")
@click.option("--save-adversarial", type=click.IntRange(min=0), default=0, metavar="N", help="Keep N for reports.")
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(model: str, attacks: tuple[str, ...], **given: Any) -> None:
    """Attack MODEL (a run's name or folder) and record what stands.

    Attacks run in the order given, each on the samples that the ones before left standing (default: autoattack).
    Interrupted, the same command goes on where it was. Several GPUs share the samples under torchrun:

    \b
    torchrun --nproc-per-node 8 -m -- robustbench_gkl eval MODEL --attack autoattack --n 1000
    """  # noqa: D301
    from robustbench_gkl.distributed import rank_device, world_from_environment
    from robustbench_gkl.exchange import exchange_of
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore
    from robustbench_gkl.runs import find_run

    run = find_run(model, checkpoints_dir=given["checkpoints_dir"])
    config = _resolve(run.config(), attacks, given)
    shared: dict[str, Any] = {key: given[key] for key in ("weights", "data_dir", "overwrite")}
    world = world_from_environment()
    device = rank_device(given["device"], world)
    shared |= {"run": run, "store": ResultStore(given["results_dir"]), "device": device}
    shared["exchange"] = exchange_of(world)
    console = make_console(quiet=given["quiet"] or not world.leads)
    where = f"{config.dataset}, {config.threat.norm}" if given["eps_grid"] else f"{config.dataset}, {config.threat}"
    by = f" by {world.size} ranks" if world.size > 1 else ""
    console.print(f"evaluating {run.name} on {where}, on {device}{by}", markup=False)
    if given["eps_grid"] is not None:
        _evaluate_grid(config, given, shared, console)
    elif given["shard"] is not None:
        _evaluate_shard(config, given, shared, console)
    else:
        _evaluate(config, given, shared, console)


def _resolve(run: RunConfig, attacks: tuple[str, ...], given: dict[str, Any]) -> EvalConfig:
    """Return what to measure: the options, and the run's own data set and threat where none were given."""
    from robustbench_gkl.config import EvalConfig, validated
    from robustbench_gkl.settings import evaluation_defaults

    values = evaluation_defaults(run.dataset, run.train)
    values.update(options.given(**{key: given[key] for key in _KEYS}))
    values["threat"] |= options.given(norm=given["norm"], eps=given["eps"])
    if attacks:
        values["attacks"] = attacks
    return validated(EvalConfig, values, what="evaluation")


def _evaluate(config: EvalConfig, given: dict[str, Any], shared: dict[str, Any], console: Console) -> None:
    from robustbench_gkl.evaluation.job import evaluate_run
    from robustbench_gkl.report.terminal import LiveProgress

    with _resumable(), LiveProgress(console) as progress:
        outcome = evaluate_run(
            config,
            time_limit=_seconds(given["time_limit"]),
            save_adversarial=given["save_adversarial"],
            **_callbacks(progress),
            **shared,
        )
    report_outcome(outcome, console)
    threshold, reached = given["fail_under"], outcome.record.worst_case_acc
    if threshold is not None and reached < threshold:
        if shared["exchange"].world.leads:
            click.echo(f"Error: robust accuracy {reached:.2f} % is below --fail-under {threshold:g}", err=True)
        shared["exchange"].gather(None)  # torchrun ends all ranks as soon as one is gone
        click.get_current_context().exit(1)


def _evaluate_shard(config: EvalConfig, given: dict[str, Any], shared: dict[str, Any], console: Console) -> None:
    from robustbench_gkl.evaluation.shards import ShardOutcome, evaluate_shard
    from robustbench_gkl.evaluation.sharing import Shard
    from robustbench_gkl.report.terminal import LiveProgress

    if given["save_adversarial"] or given["fail_under"] is not None:
        raise UserError("--shard goes with neither --save-adversarial (give it to gklbench merge) nor --fail-under")
    shard = Shard.parse(given["shard"])
    with _resumable(), LiveProgress(console) as progress:
        outcome = evaluate_shard(
            config,
            shard=shard,
            time_limit=_seconds(given["time_limit"]),
            **_callbacks(progress),
            **shared,
        )
    if not isinstance(outcome, ShardOutcome):
        report_outcome(outcome, console)
        return
    console.print(f"shard {shard}: {outcome.standing} of {outcome.n} samples stand", markup=False)
    if outcome.partial:
        console.print("stopped by --time-limit; give the command again to go on")
    else:
        join = f"gklbench merge {outcome.record_id} --results-dir {shared['store'].folder}"
        console.print(f"when all shards are done: {join}", markup=False)


def _callbacks(progress: LiveProgress) -> dict[str, Any]:
    """Return what shows how an evaluation goes."""
    return {
        "on_checks": lambda checks: _warn(checks, progress),
        "on_progress": lambda event: progress.update(event.stage, event.done, event.total, note=_note(event)),
    }


def _evaluate_grid(config: EvalConfig, given: dict[str, Any], shared: dict[str, Any], console: Console) -> None:
    from robustbench_gkl.evaluation.curve import parse_grid
    from robustbench_gkl.evaluation.job import evaluate_grid
    from robustbench_gkl.report.terminal import LiveProgress

    if any(given[key] for key in ("eps", "time_limit", "save_adversarial", "shard")) or given["fail_under"] is not None:
        raise UserError("--eps-grid goes with none of --eps, --time-limit, --shard, --save-adversarial, --fail-under")
    radii = parse_grid(given["eps_grid"])
    with _resumable(), LiveProgress(console) as progress:
        outcomes = evaluate_grid(
            config,
            radii,
            on_progress=lambda event: progress.update(event.stage, event.done, event.total),
            **shared,
        )
    for outcome in outcomes:
        record = outcome.record
        console.print(f"{record.threat!s:14} {record.worst_case_acc:6.2f} %  record {record.id}", markup=False)


_KEYS = ("dataset", "split", "n", "engine", "batch_size", "seed", "search_precision", "compiled")


@contextmanager
def _resumable() -> Iterator[None]:
    """Say of an interruption in the block that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from here") from None


def _seconds(text: str | None) -> float | None:
    """Return the seconds that ``90``, ``90s``, ``30m`` or ``2h`` mean."""
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise UserError(f"--time-limit must be a time above 0 such as 90s, 30m or 2h, got {text!r}")
    return seconds


def _note(event: Progress) -> str:
    """Return what is known so far: the fallen, the bound, the pace and the time left in this attack."""
    parts = [f"{event.fallen} fallen, {event.standing} standing"]
    parts.append(f"robust accuracy at most {100 * event.standing / event.n:.2f} %")
    if event.calls_per_second:
        parts.append(f"{event.calls_per_second:,.0f} model calls/s")
    if event.seconds_left is not None:
        minutes, seconds = divmod(round(event.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)


def _warn(checks: Sequence[Check], progress: LiveProgress) -> None:
    """Say before the long work which checks fail."""
    for check in checks:
        if check.verdict == "FAIL":
            progress.line(f"FAIL {check.name}, so never ranked: {check.figure}. {check.advice}")


def report_outcome(outcome: Outcome, console: Console) -> None:
    """Print what a record says."""
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
    bound = "robust accuracy <= " if record.partial else "robust accuracy    "
    console.print(f"{bound} {record.worst_case_acc:6.2f} %  ({interval})")
    if record.partial:
        console.print("partial: stopped by --time-limit; give the command again to go on. It is not ranked.")
    for check in record.checks:
        if check.verdict != "PASS":
            console.print(f"{check.verdict} {check.name}: {check.figure}. {check.advice}", markup=False)
    batch = f"batches of {record.batch_size}"
    console.print(f"record {record.id}, {record.seconds:.1f} s, {batch}", markup=False)
