"""Evaluations of a run that end in records: under its attacks, or under one attack at several radii."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.checks.after import candidates_in_ball, check_evaluation
from robustbench_gkl.evaluation.checks.before import MOST_IMAGES, check_model
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.eps_grid import evaluate_curve
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.job import Job, prepare
from robustbench_gkl.evaluation.journaling import about, discard_old, open_journal
from robustbench_gkl.evaluation.recording import (
    adversarial_bytes,
    from_leader,
    kept_instead,
    known_records,
    save,
)
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import Check, Record, canonical_hash
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.runs import Run


@dataclass(frozen=True)
class Recorded:
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
) -> Recorded:
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
            return Recorded(known[0], reused=True)
        exchange.from_leader(lambda: discard_old(job.id, about(job, overwrite=overwrite), store))
        journal = open_journal(job, store, share, overwrite=overwrite)
        checks, result = attack(job, workspace, share, journal, time_limit=time_limit)
        (record,) = from_leader(
            exchange,
            lambda: [conclude(job, result, checks, store, parts=len(journal.parts), save_adversarial=save_adversarial)],
        )
        if not result.partial:
            journal.delete()
    return Recorded(record, reused=False)


def evaluate_grid(
    config: EvalConfig,
    run: Run,
    workspace: Workspace,
    *,
    name: str | None = None,
    weights: WeightsName | None = None,
    overwrite: bool = False,
) -> list[Recorded]:
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
            return [Recorded(record, reused=True) for record in known]
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
    return [Recorded(record, reused=False) for record in records]


_MOST_KEPT = 2**31
"""Bytes of adversarial images that are kept to be looked at again."""


def check_before(job: Job, workspace: Workspace, batch_size: int) -> list[Check]:
    """Return what rank 0 finds before the attacks; the others wait for it."""
    checks: list[Check] = []
    if workspace.exchange.world.leads:
        images, labels = job.samples.images, job.samples.labels
        checks = check_model(job.model, images, labels, randomised=job.randomised, batch_size=batch_size)
        if workspace.on_checks is not None:
            workspace.on_checks(checks)
    workspace.exchange.gather(None)
    return checks


def batches_before(job: Job) -> int:
    """Return the images at a time in the checks before the attacks."""
    n, size = len(job.samples), job.config.batch_size
    return min(MOST_IMAGES, n if size == "auto" else size)


def keeps_images(job: Job) -> bool:
    """Return whether adversarial images are kept to be looked at again."""
    return 4 * job.samples.images.numel() <= _MOST_KEPT


def attack(
    job: Job, workspace: Workspace, share: Share, journal: Journal, *, time_limit: float | None
) -> tuple[list[Check], Evaluation]:
    """Return the checks before the attacks, and what these find."""
    checks = check_before(job, workspace, batches_before(job))
    result = measure(
        job.model,
        job.samples.images,
        job.samples.labels,
        job.config.threat.threat(),
        [attack for attack, _ in job.attacks],
        EngineSettings.of(job.config),
        time_limit=time_limit,
        journal=journal,
        share=share,
        keep_adversarial=keeps_images(job),
        on_progress=workspace.on_progress,
    )
    return checks, result


def conclude(
    job: Job, result: Evaluation, checks: Sequence[Check], store: ResultStore, *, parts: int, save_adversarial: int
) -> Record:
    """Check what was found, and write record and verdicts."""
    images = job.samples.images
    found = check_evaluation(
        result,
        job.model,
        images,
        job.samples.labels,
        job.config.threat.threat(),
        seed=job.config.seed,
        randomised=job.randomised,
        batch_size=result.batch_size,
    )
    if save_adversarial and not kept_instead(result, job, store):
        store.save_adversarial(job.id, adversarial_bytes(result, images, save_adversarial))
    return save(job, result, [*checks, *candidates_in_ball(result), *found], store, processes=parts)
