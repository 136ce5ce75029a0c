"""One evaluation of a run, from its configuration to its record, by one process or by the ranks of torchrun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from robustbench_gkl.config import EvalConfig
from robustbench_gkl.errors import UserError
from robustbench_gkl.evaluation.curve import evaluate_curve
from robustbench_gkl.evaluation.outcome import Progress
from robustbench_gkl.evaluation.preflight import MOST_IMAGES
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.steps import (
    attack,
    check_before,
    conclude,
    from_leader,
    known_records,
    open_journal,
    options,
    save,
)
from robustbench_gkl.evaluation.subject import candidates_in_ball, prepare
from robustbench_gkl.exchange import Exchange
from robustbench_gkl.results.record import Check, Record, canonical_hash
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.runs import Run
from robustbench_gkl.settings import WeightsName


@dataclass(frozen=True)
class Outcome:
    """A record, and whether it was there already."""

    record: Record
    reused: bool


def evaluate_run(
    config: EvalConfig,
    run: Run,
    store: ResultStore,
    *,
    weights: WeightsName | None = None,
    device: torch.device,
    data_dir: Path = Path("data"),
    overwrite: bool = False,
    time_limit: float | None = None,
    save_adversarial: int = 0,
    exchange: Exchange | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_checks: Callable[[Sequence[Check]], None] | None = None,
) -> Outcome:
    """Evaluate a run and write its record and verdicts.

    An evaluation that was done already is returned as it is; one that was interrupted goes on, with however many ranks.

    Args:
        config: what to measure.
        run: the model.
        store: the results folder; ranks on several machines must share it.
        weights: which of the run's weights; None for the preferred ones.
        device: where to run.
        data_dir: where downloaded data sets are kept.
        overwrite: measure again even if the record exists.
        time_limit: seconds after which to stop with a partial record; None for no limit.
        save_adversarial: how many adversarial images to write beside the verdicts, for reports.
        exchange: the ranks that share the samples, each of which calls this; None for this process alone. Rank 0 makes
            the checks and writes the record.
        on_progress: called a few times a second, on rank 0.
        on_checks: called on rank 0 with what was found before the attacks; whatever it is, they are run.

    Returns:
        The same on all ranks.

    Raises:
        UserError: anything in the configuration, the run or the data that cannot be used.
    """
    share = Share(exchange or Exchange())
    job = prepare(config, run, weights=weights, device=device, data_dir=data_dir, exchange=share.exchange)
    if known := known_records([job], store, share.exchange, overwrite=overwrite):
        return Outcome(known[0], reused=True)
    journal = open_journal(job, store, share)
    checks, result = attack(job, share, journal, time_limit=time_limit, on_progress=on_progress, on_checks=on_checks)
    records = from_leader(
        share.exchange, lambda: [conclude(job, result, checks, store, journal, save_adversarial=save_adversarial)]
    )
    if not result.partial:
        journal.delete()
    return Outcome(records[0], reused=False)


def evaluate_grid(
    config: EvalConfig,
    radii: tuple[Fraction, ...],
    run: Run,
    store: ResultStore,
    *,
    weights: WeightsName | None = None,
    device: torch.device,
    data_dir: Path = Path("data"),
    overwrite: bool = False,
    exchange: Exchange | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Outcome]:
    """Evaluate a run under one attack at several radii and write a record for each.

    Their protocol names the radii, so they are not ranked with evaluations at a single one.

    Args:
        config: what to measure, with one native attack; its radius does not matter.
        radii: see :func:`~robustbench_gkl.evaluation.curve.parse_grid`.
        run, store, weights, device, data_dir, overwrite, exchange, on_progress: as for :func:`evaluate_run`.

    Raises:
        UserError: as :func:`evaluate_run`; several attacks, or the reference engine.
    """
    if len(config.attacks) != 1 or config.engine != "native":
        raise UserError("--eps-grid takes one --attack, run by the native engine")
    share = Share(exchange or Exchange())
    base = prepare(config, run, weights=weights, device=device, data_dir=data_dir, exchange=share.exchange)
    jobs = [base.at_radius(eps, radii) for eps in radii]
    if known := known_records(jobs, store, share.exchange, overwrite=overwrite):
        return [Outcome(record, reused=True) for record in known]
    leads = share.exchange.world.leads
    journal = store.journal(f"{run.name}-{canonical_hash([job.id for job in jobs])[:12]}") if leads else None
    checks = check_before(base, share, MOST_IMAGES, None)
    results = evaluate_curve(
        base.model,
        base.samples.images,
        base.samples.labels,
        config.threat.threat(),
        radii,
        base.attacks[0],
        journal=journal,
        share=share,
        on_progress=on_progress,
        **options(config),
    )
    records = from_leader(
        share.exchange,
        lambda: [
            save(job, result, checks + candidates_in_ball(result), store)
            for job, result in zip(jobs, results, strict=True)
        ],
    )
    if journal is not None:
        journal.delete()
    return [Outcome(record, reused=False) for record in records]
