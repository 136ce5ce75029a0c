"""``gklbench certify``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.cli.evaluating import Evaluated, resumable, seconds_of, workspace_of
from robustbench_gkl.cli.starting import starting
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_gkl.evaluation.effort import Effort

_USUAL = "40s"
"""What ``--complete`` spends on a sample."""


@sections.command(
    examples=[
        "gklbench certify gkl --eps 2/255",
        "gklbench certify gkl --eps 2/255 --complete --per-sample 40s --n 100",
    ]
)
@options.model_argument
@sections.what("--dataset", type=named.DATASET, help="Certify on this data set; the model's own if not given.")
@sections.what("--split", type=click.Choice(["test", "train"]), help="Which images (default: test).")
@sections.what("--n", type=int, help="Only the first N images.")
@options.norm
@options.eps
@sections.how("--complete", is_flag=True, help="Search what bounds leave open: branch and bound, and attacks.")
@sections.budget(
    "--per-sample",
    metavar="TIME|Ncalls",
    help=f"With --complete: at most 40s of the processor, or 20000calls, for each sample (default: {_USUAL}).",
)
@sections.output("--name", help="The model's name on the board; a run's own if not given.")
@sections.budget("--time-limit", metavar="TIME", help="Stop after 90s, 30m or 2h with a partial record.")
@sections.budget("--shard", metavar="K/N", help="Only each N-th sample, from the K-th on; join with gklbench merge.")
@options.seed
@sections.output("--overwrite", is_flag=True, help="Certify again even if this was done before.")
@options.save_adversarial
@options.device
@options.data_dir
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(
    model: options.ModelArgument,
    dataset: str | None,
    split: str | None,
    n: int | None,
    norm: str | None,
    eps: str | None,
    complete: bool,
    per_sample: str | None,
    name: str | None,
    time_limit: str | None,
    shard: str | None,
    seed: int | None,
    overwrite: bool,
    save_adversarial: int | Literal["all"],
    device: str,
    data_dir: Path,
    checkpoints_dir: Path,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Prove of the samples of MODEL that no image in their balls is classified wrongly, up to floating point.

    Made for networks of convolutions, linear layers, batch normalisation, average pooling and ReLUs with some thousands
    of hidden neurons. The proved samples bound robust accuracy from below, as attacks do from above. Interrupted,
    the same command goes on where it was; with a longer --per-sample, what is still open is searched again.
    """
    from robustbench_gkl.config.options import evaluation_config, usual_note
    from robustbench_gkl.data.facts import usual_threat
    from robustbench_gkl.report.live import LiveProgress
    from robustbench_gkl.report.record import record_lines, saved_lines
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.results import ResultStore

    source = model.source(checkpoints_dir, dataset=dataset, norm=norm)
    if shard is not None and save_adversarial:
        raise UserError("--shard does not go with --save-adversarial; give it to gklbench merge")
    asked = options.given(dataset=dataset, split=split, n=n, attacks=("certify",), seed=seed)
    threat = options.given(norm=norm, eps=eps)
    config = evaluation_config(source.native(), asked=asked, threat=threat, usual=usual_threat, what="certify")
    options.refuse_unknown(dataset=config.dataset)
    limit = None if time_limit is None else seconds_of("--time-limit", time_limit)
    with starting():
        import robustbench_gkl.evaluation.recorded  # noqa: F401
        from robustbench_gkl.ranks.collectives import rank_device, world_from_environment
        from robustbench_gkl.ranks.exchange import exchange_of
    effort, store, world = _effort(complete, per_sample), ResultStore(results_dir), world_from_environment()
    on = rank_device(device, world)
    console = make_console(quiet=quiet or not world.leads)
    where = f"{config.dataset}, {config.threat}{usual_note(config, source.native(), threat=threat)}"
    console.print(f"certifying {name or source.name} on {where}, on {on}: {effort}", markup=False)
    with resumable(), LiveProgress(console) as progress:
        workspace = workspace_of(store, on, data_dir, exchange_of(world), progress)
        evaluated = Evaluated(config, source, workspace, name, overwrite, effort)
        if shard is not None:
            outcomes = evaluated.shard(shard, limit, progress)
        else:
            outcomes = [evaluated.whole(limit, save_adversarial)]
    for outcome in outcomes:
        lines = record_lines(outcome.record, reused=outcome.reused)
        for line in [*lines, *(saved_lines(outcome.record, store) if save_adversarial else [])]:
            console.print(line, markup=False)


def _effort(complete: bool, per_sample: str | None) -> Effort:
    """Return how far certification goes.

    Raises:
        UserError: a budget that is none, or one for nothing.
    """
    from robustbench_gkl.evaluation.effort import Effort

    if not complete:
        if per_sample is not None:
            raise UserError("--per-sample limits the search of --complete; give both, or neither for bounds alone")
        return Effort()
    text = _USUAL if per_sample is None else per_sample
    if (calls := re.fullmatch(r"([1-9][0-9]{0,17}) ?calls", text)) is not None:
        return Effort(complete=True, calls=int(calls[1]))
    return Effort(
        complete=True,
        seconds=seconds_of("--per-sample", text, examples="40s or 5m, or a number of calls such as 20000calls"),
    )
