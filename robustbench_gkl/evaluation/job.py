"""One evaluation of a run, from its configuration to its record, by one process or by the ranks of torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.curve import evaluate_curve
from robustbench_gkl.evaluation.engine import EngineSettings
from robustbench_gkl.evaluation.preflight import MOST_IMAGES
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.steps import (
    about,
    attack,
    check_before,
    conclude,
    discard_old,
    from_leader,
    known_records,
    open_journal,
    save,
)
from robustbench_gkl.evaluation.subject import candidates_in_ball, prepare
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.results.record import Record, canonical_hash
from robustbench_gkl.runs import Run


@dataclass(frozen=True)
class Outcome:
    """A record, and whether it was there already."""

    record: Record
    reused: bool


def evaluate_run(
    config: EvalConfig,
    run: Run,
    workspace: Workspace,
    *,
    name: str | None = None,
    weights: WeightsName | None = None,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_adversarial: int = 0,
) -> Outcome:
    """Evaluate a run and write its record and verdicts.

    An evaluation that was done already is returned as it is; one that was interrupted goes on, with however many ranks.
    One that another process is making is waited for and then returned.

    Args:
        config: what to measure.
        run: the model.
        workspace: where.
        name: the model's name in the record; None for the run's.
        weights: which of the run's weights; None for the preferred ones.
        overwrite: measure again even if the record exists; it is replaced when the new one is complete.
        time_limit: seconds after which to stop with a partial record; None for no limit.
        save_adversarial: how many adversarial images to write beside the verdicts, for reports.

    Returns:
        The same on all ranks.

    Raises:
        UserError: anything in the configuration, the run or the data that cannot be used.
    """
    store, exchange, share = workspace.store, workspace.exchange, Share(workspace.exchange)
    job = prepare(config, run, workspace, name=name, weights=weights)
    store.prepare()
    with workspace.holding(job.id):
        if not overwrite and (known := known_records([job], store, exchange)):
            if save_adversarial and not store.adversarial_path(known[0].id).exists():
                raise UserError(
                    f"{known[0].id} is there already, and its adversarial images were not kept; give --overwrite to "
                    "make them again"
                )
            return Outcome(known[0], reused=True)
        exchange.from_leader(lambda: discard_old(job.id, about(job, overwrite=overwrite), store))
        journal = open_journal(job, store, share, overwrite=overwrite)
        checks, result = attack(job, workspace, share, journal, time_limit=time_limit)
        (record,) = from_leader(
            exchange,
            lambda: [conclude(job, result, checks, store, parts=len(journal.parts), save_adversarial=save_adversarial)],
        )
        if not result.partial:
            journal.delete()
    return Outcome(record, reused=False)


def evaluate_grid(
    config: EvalConfig,
    run: Run,
    workspace: Workspace,
    *,
    name: str | None = None,
    weights: WeightsName | None = None,
    overwrite: bool = False,
) -> list[Outcome]:
    """Evaluate a run under one attack at the radii of ``config.eps_grid`` and write a record for each.

    Their protocol names the radii: not every sample was attacked at every radius.

    Args:
        config: what to measure, with one native attack; the radius of its threat does not matter.
        run, workspace, name, weights, overwrite: as for :func:`evaluate_run`.

    Raises:
        UserError: as :func:`evaluate_run`; several attacks, or the reference engine.
    """
    radii = config.eps_grid
    if radii is None or len(config.attacks) != 1 or config.engine != "native":
        raise UserError("--eps-grid takes one --attack, run by the native engine")
    store, exchange, share = workspace.store, workspace.exchange, Share(workspace.exchange)
    base = prepare(config, run, workspace, name=name, weights=weights)
    jobs = [base.at_radius(eps, radii) for eps in radii]
    journal_id = f"{base.name}-{canonical_hash([job.id for job in jobs])[:12]}"
    store.prepare()
    with workspace.holding(journal_id):
        if not overwrite and (known := known_records(jobs, store, exchange)):
            return [Outcome(record, reused=True) for record in known]
        this = about(base, overwrite=overwrite)
        exchange.from_leader(lambda: discard_old(journal_id, this, store))
        journal = store.journal(journal_id) if exchange.world.leads else None
        if journal is not None and not journal.own:
            journal.append(this.entry())
        checks = check_before(base, workspace, MOST_IMAGES)
        results = evaluate_curve(
            base.model,
            base.samples.images,
            base.samples.labels,
            config.threat.threat(),
            radii,
            base.attacks[0][0],
            EngineSettings.of(config),
            journal=journal,
            share=share,
            on_progress=workspace.on_progress,
        )
        records = from_leader(
            exchange,
            lambda: [
                save(job, result, checks + candidates_in_ball(result), store)
                for job, result in zip(jobs, results, strict=True)
            ],
        )
        if journal is not None:
            journal.delete()
    return [Outcome(record, reused=False) for record in records]
