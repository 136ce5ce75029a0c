"""Evaluations of a run that end in records: under its attacks, or under one attack at several radii."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.certified import certifier_of, surpasses
from robustbench_gkl.evaluation.certifying import has_certification
from robustbench_gkl.evaluation.checks.after import candidates_in_ball, check_evaluation
from robustbench_gkl.evaluation.checks.before import FEW_IMAGES, MOST_IMAGES, check_model
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.eps_grid import evaluate_curve
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.job import Job, prepare
from robustbench_gkl.evaluation.journaling import about, discard_old, open_journal
from robustbench_gkl.evaluation.recording import (
    adversarial_bytes,
    from_leader,
    kept_instead,
    known_record,
    known_records,
    save,
)
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import Check, Record, canonical_hash
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.sources.source import ModelSource


@dataclass(frozen=True)
class Recorded:
    """A record, and whether it was there already."""

    record: Record
    reused: bool
    evaluation: Evaluation | None = None
    """The outcome, where it was measured now, on rank 0 with its adversarial images."""


def evaluate_and_record(
    config: EvalConfig,
    source: ModelSource,
    workspace: Workspace,
    *,
    name: str | None = None,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_adversarial: int | Literal["all"] = 0,
    effort: Effort | None = None,
) -> Recorded:
    """Evaluate a model and write its record and verdicts.

    An evaluation that was done already is returned as it is; one that was interrupted goes on, with however many ranks.
    One that another process is making is waited for and then returned.

    Args:
        config: what to measure.
        source: the model.
        workspace: where.
        name: the model's name in the record; None for the source's.
        overwrite: measure again even if the record exists; it is replaced when the new one is complete.
        time_limit: seconds after which to stop with a partial record; None for no limit.
        save_adversarial: how many adversarial images to write beside the verdicts, or all.
        effort: how far samples are certified; None for not at all. A record with less effort is gone on with.

    Returns:
        The same on all ranks.

    Raises:
        UserError: anything in the configuration, the model or the data that cannot be used.
    """
    job = prepare(config, source, workspace, name=name, effort=effort)
    return evaluate_job(job, workspace, overwrite=overwrite, time_limit=time_limit, save_adversarial=save_adversarial)


def evaluate_job(
    job: Job,
    workspace: Workspace,
    *,
    overwrite: bool = False,
    time_limit: float | None = None,
    save_adversarial: int | Literal["all"] = 0,
) -> Recorded:
    """Evaluate a job and write its record and verdicts, see :func:`evaluate_and_record`."""
    store, exchange, share = workspace.store, workspace.exchange, Share(workspace.exchange)
    store.prepare()
    with workspace.holding(job.id):
        known = [] if overwrite else known_records([job], store, exchange)
        if known and not surpasses(job, known[0]):
            _require_kept(known[0], save_adversarial, store)
            return Recorded(known[0], reused=True)
        require_room(job, save_adversarial)
        exchange.from_leader(lambda: discard_old(job.id, about(job, overwrite=overwrite), store))
        journal = open_journal(job, store, share, overwrite=overwrite)
        checks, result = attack(job, workspace, share, journal, time_limit=time_limit)
        (record,) = from_leader(
            exchange,
            lambda: [conclude(job, result, checks, store, parts=len(journal.parts), save_adversarial=save_adversarial)],
        )
        if not result.partial:
            journal.delete()
    return Recorded(record, reused=False, evaluation=result)


def _require_kept(record: Record, wanted: int | Literal["all"], store: ResultStore) -> None:
    """Check that as many adversarial images were kept with a record as are wanted now.

    Raises:
        UserError: there are fewer.
    """
    if not wanted:
        return
    least = record.broken if wanted == "all" else min(wanted, record.broken)
    kept = store.adversarial_count(record.id)
    if kept is None or kept < least:
        has = "were not kept" if kept is None else f"are those of {kept} of {record.broken} broken samples"
        raise UserError(
            f"{record.id} is there already, and its adversarial images {has}; give --overwrite to make them again"
        )


def evaluate_grid(
    config: EvalConfig,
    source: ModelSource,
    workspace: Workspace,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> list[Recorded]:
    """Evaluate a model under one attack at the radii of ``config.eps_grid`` and write a record for each.

    Their protocol names the radii: not every sample was attacked at every radius.

    Args:
        config: what to measure, with one native attack; the radius of its threat does not matter.
        source, workspace, name, overwrite: as for :func:`evaluate_and_record`.

    Raises:
        UserError: as :func:`evaluate_and_record`; several attacks, or the reference engine.
    """
    radii = config.eps_grid
    if radii is None or len(config.attacks) != 1 or config.engine != "native":
        raise UserError("--eps-grid takes one --attack, run by the native engine")
    store, exchange, share = workspace.store, workspace.exchange, Share(workspace.exchange)
    base = prepare(config, source, workspace, name=name)
    if has_certification(base.attacks):
        raise UserError("--eps-grid takes an attack, and certify proves; give gklbench certify with each --eps")
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
        checks = check_before(base, workspace)
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


MOST_KEPT = 2**31
"""Bytes of adversarial images that are kept to be looked at again."""


def check_before(job: Job, workspace: Workspace) -> list[Check]:
    """Return what rank 0 finds before the attacks; the others wait for it."""
    checks: list[Check] = []
    if workspace.exchange.world.leads:
        checks = _checked_before(job)
        if workspace.on_checks is not None:
            workspace.on_checks(checks)
    workspace.exchange.gather(None)
    return checks


def _checked_before(job: Job) -> list[Check]:
    """Return the checks before the attacks; a batch size that is to be found is halved where memory runs out."""
    given, images, labels = job.config.batch_size, job.samples.images, job.samples.labels
    size = min(MOST_IMAGES, len(labels) if given == "auto" else given)
    while True:
        try:
            return check_model(job.model, images, labels, randomised=job.randomised, batch_size=size)
        except torch.OutOfMemoryError:
            if given != "auto" or size <= FEW_IMAGES:
                raise
        size //= 2
        torch.cuda.empty_cache()  # only here, where the error is gone with all that its frames held


def keeps_images(job: Job) -> bool:
    """Return whether adversarial images are kept to be looked at again."""
    return 4 * job.samples.images.numel() <= MOST_KEPT


def require_room(job: Job, wanted: int | Literal["all"]) -> None:
    """Check that adversarial images can be kept where some are wanted.

    Raises:
        UserError: the samples are too large.
    """
    if wanted and not keeps_images(job):
        size = 4 * job.samples.images.numel() / 2**30
        raise UserError(
            f"--save-adversarial: {len(job.samples):,} images take {size:.1f} GiB, and at most {MOST_KEPT / 2**30:g} "
            "GiB are kept; evaluate fewer with --n"
        )


def attack(
    job: Job, workspace: Workspace, share: Share, journal: Journal, *, time_limit: float | None
) -> tuple[list[Check], Evaluation]:
    """Return the checks before the attacks, and what these find."""
    certifier = certifier_of(job, workspace)
    checks = check_before(job, workspace)
    result = measure(
        job.model,
        job.samples.images,
        job.samples.labels,
        job.config.threat.threat(),
        [attack for attack, _ in job.attacks],
        EngineSettings.of(job.config),
        index=job.index,
        time_limit=time_limit,
        journal=journal,
        share=share,
        keep_adversarial=keeps_images(job),
        effort=job.effort if certifier is not None else None,
        certifier=certifier,
        on_progress=workspace.on_progress,
        on_note=workspace.on_note,
    )
    return checks, result


def conclude(
    job: Job,
    result: Evaluation,
    checks: Sequence[Check],
    store: ResultStore,
    *,
    parts: int,
    save_adversarial: int | Literal["all"],
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
    if result.has_adversarial is not None and not result.has_adversarial.any():
        found = _with_earlier(found, known_record(job, store))
    if save_adversarial and not kept_instead(result, job, store):
        store.save_adversarial(job.id, adversarial_bytes(result, images, save_adversarial))
    return save(job, result, [*checks, *candidates_in_ball(result), *found], store, processes=parts)


def _with_earlier(found: Sequence[Check], earlier: Record | None) -> list[Check]:
    """Return checks with that of the images from the record that was gone on with, where no image is there now."""
    before = {} if earlier is None else {check.name: check for check in earlier.checks if check.name == "reverified"}
    return [before.get(check.name, check) for check in found]
