"""Evaluations that end in a record: of a run, of a shard of it, of parts joined, of a grid of radii."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated
from robustbench_gkl.evaluation.checks.after import candidates_in_ball, verify
from robustbench_gkl.evaluation.checks.before import MOST_IMAGES, preflight
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.eps_grid import evaluate_curve
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.job import Job, prepare
from robustbench_gkl.evaluation.journaling import about, discard_old, open_journal, part_name, unfit_parts
from robustbench_gkl.evaluation.recording import (
    adversarial_bytes,
    from_leader,
    kept_instead,
    known_records,
    save,
)
from robustbench_gkl.evaluation.replay import kept_images, noted_batch_size, replayed
from robustbench_gkl.evaluation.sharing import Shard, Share
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.results.journal import About, Journal
from robustbench_gkl.results.record import Check, Record, canonical_hash
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.runs import Run, find_run, look_for


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
        checks = preflight(job.model, images, labels, randomised=job.randomised, batch_size=batch_size)
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
    found = verify(
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


@dataclass(frozen=True)
class ShardOutcome:
    """What a shard has left for the merge.

    Attributes:
        record_id: of the record that it is a part of.
        n: samples in the shard.
        standing: those that stand.
        partial: stopped by the time limit.
    """

    record_id: str
    n: int
    standing: int
    partial: bool


def evaluate_shard(
    config: EvalConfig,
    run: Run,
    workspace: Workspace,
    shard: Shard,
    *,
    name: str | None = None,
    weights: WeightsName | None = None,
    overwrite: bool = False,
    time_limit: float | None = None,
) -> ShardOutcome | Recorded:
    """Evaluate a run on a fixed share of the samples, and leave what was found for :func:`merge_parts`.

    Args:
        shard: which samples.
        config, run, workspace, name, weights, overwrite, time_limit: as for :func:`evaluate_run`.

    Returns:
        What the shard has come to, or the record of the whole if there is one already.

    Raises:
        UserError: as :func:`evaluate_run`; fewer samples than shards.
    """
    store, exchange, share = workspace.store, workspace.exchange, Share(workspace.exchange, shard)
    job = prepare(config, run, workspace, name=name, weights=weights)
    if len(job.samples) < shard.of:
        raise UserError(f"--shard {shard}: there are only {len(job.samples)} samples; use fewer shards")
    store.prepare()
    this = about(job, overwrite=overwrite)
    if exchange.from_leader(lambda: bool(unfit_parts(job.id, this, store))):
        with workspace.holding(job.id):
            exchange.from_leader(lambda: discard_old(job.id, this, store))
    with workspace.holding(job.id, shared=True, part=part_name(share)):
        if not overwrite and (known := known_records([job], store, exchange)):
            return Recorded(known[0], reused=True)
        journal = open_journal(job, store, share, overwrite=overwrite)
        _, result = attack(job, workspace, share, journal, time_limit=time_limit)
    mine = share.samples(result.n)
    return ShardOutcome(job.id, int(mine.sum()), int((mine & result.standing).sum()), result.partial)


def merge_parts(
    record_id: str,
    workspace: Workspace,
    *,
    checkpoints_dir: Path = Path("checkpoints"),
    save_adversarial: int = 0,
) -> Recorded:
    """Make a record of the parts that shards, ranks or interrupted evaluations have left; nothing is attacked.

    The run must be in ``checkpoints_dir`` or where it was: the checks before and after the attacks need its model.

    Raises:
        UserError: there are no parts, another model has the run's name, or samples are missing; the parts stay.
    """
    store = workspace.store
    if not store.parts(record_id):
        raise UserError(f"there are no parts of {record_id} in {store.folder}; evaluate with --shard first")
    with workspace.holding(record_id):
        if not store.parts(record_id) and (record := store.load(record_id)) is not None:
            return Recorded(record, reused=True)  # another process has joined them, or gone on to the end
        journal = store.joined_journal(record_id)
        if (this := journal.about) is None:
            raise UserError(f"the parts of {record_id} are an earlier version's; give their eval commands again")
        config = validated(EvalConfig, this.config, what=f"evaluation {record_id}")
        job = prepare(config, _run_of(this, checkpoints_dir), workspace, name=this.name, weights=this.weights)
        if job.id != record_id:
            raise UserError(
                f"the parts of {record_id} are about other weights or images than {job.run.name} in {job.run.folder}"
            )
        if unfit := unfit_parts(record_id, about(job, overwrite=False), store):
            names = ", ".join(part or "the first" for part, _ in unfit)
            raise UserError(
                f"parts of {record_id} ({names}) were left by another version; give their eval commands again"
            )
        result, missing = _joined(job, journal)
        if missing:
            raise UserError(f"{record_id}: {_missing_text(missing, result.n, journal.parts)}")
        checks = check_before(job, workspace, batches_before(job))
        record = conclude(job, result, checks, store, parts=len(journal.parts), save_adversarial=save_adversarial)
        journal.delete()
    return Recorded(record, reused=False)


def _run_of(this: About, checkpoints_dir: Path) -> Run:
    """Return the run that a journal is about: of that name among the runs here, else in the folder where it was."""
    folder = Path(this.run)
    named = look_for(folder.name, checkpoints_dir=checkpoints_dir)
    return named if named.exists() else find_run(str(folder), checkpoints_dir=checkpoints_dir)


def _joined(job: Job, journal: Journal) -> tuple[Evaluation, list[int]]:
    """Return the outcome that the parts tell, and the positions of the samples that lack something."""
    result, missing = replayed(
        job.attacks,
        job.config.threat.threat(),
        journal.entries,
        index=np.arange(len(job.samples)),
        label=job.samples.labels.numpy(),
        num_classes=job.model.num_classes,
    )
    size = job.config.batch_size
    result.batch_size = (noted_batch_size(journal.entries) or MOST_IMAGES) if size == "auto" else size
    if keeps_images(job):
        result.keep_images(job.samples.images)
        kept_images(journal, tuple(job.samples.images.shape[1:]), result)
    return result, missing


def _missing_text(missing: Sequence[int], n: int, parts: Iterable[str]) -> str:
    """Return which samples are missing for a record of ``n``, by the shards whose ``parts`` are there."""
    known = {Shard(*map(int, part.partition(".")[0].split("of"))) for part in parts if "of" in part}
    text = f"{len(missing)} of {n} samples are missing"
    if not known:
        first = ", ".join(map(str, sorted(missing)[:5]))
        return f"{text} (the first: {first}); give the eval command again to go on"
    of = max(shard.of for shard in known)
    lacking = sorted({Shard(position % of + 1, of) for position in missing}, key=lambda shard: shard.number)
    said = [f"shard {shard} is {'not finished' if shard in known else 'not there'}" for shard in lacking]
    return f"{text}: {', '.join(said)}; give its eval command (again)"
