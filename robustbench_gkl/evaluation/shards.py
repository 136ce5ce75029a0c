"""Evaluations by processes that share nothing but a folder: each leaves its part, and one joins them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated
from robustbench_gkl.evaluation.certified import certificate_key, effort_with, surpasses
from robustbench_gkl.evaluation.checks.before import MOST_IMAGES
from robustbench_gkl.evaluation.effort import Effort, Tried
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.job import Job, prepare
from robustbench_gkl.evaluation.journaling import (
    about,
    discard_old,
    evidence_of,
    images_of,
    open_journal,
    part_name,
    unfit_parts,
)
from robustbench_gkl.evaluation.recorded import (
    Recorded,
    attack,
    check_before,
    conclude,
    keeps_images,
    require_room,
)
from robustbench_gkl.evaluation.recording import known_record, known_records
from robustbench_gkl.evaluation.replay import kept_images, noted_batch_size, replayed
from robustbench_gkl.evaluation.sharing import Shard, Share
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import Record
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.sources.source import ModelSource, source_again


@dataclass(frozen=True)
class ShardOutcome:
    """The outcome of a shard, for the merge to come.

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
    source: ModelSource,
    workspace: Workspace,
    shard: Shard,
    *,
    name: str | None = None,
    overwrite: bool = False,
    time_limit: float | None = None,
    effort: Effort | None = None,
) -> ShardOutcome | Recorded:
    """Evaluate a model on a fixed share of the samples, and leave what was found for :func:`merge_parts`.

    Args:
        shard: which samples.
        config, source, workspace, name, overwrite, time_limit, effort: as for :func:`evaluate_and_record`.

    Returns:
        The shard's outcome, or the record of the whole if there is one already.

    Raises:
        UserError: as :func:`evaluate_and_record`; fewer samples than shards.
    """
    store, exchange, share = workspace.store, workspace.exchange, Share(workspace.exchange, shard)
    job = prepare(config, source, workspace, name=name, effort=effort)
    if len(job.samples) < shard.of:
        raise UserError(f"--shard {shard}: there are only {len(job.samples)} samples; use fewer shards")
    store.prepare()
    this = about(job, overwrite=overwrite)
    if exchange.from_leader(lambda: bool(unfit_parts(job.id, this, store))):
        with workspace.holding(job.id):
            exchange.from_leader(lambda: discard_old(job.id, this, store))
    with workspace.holding(job.id, shared=True, part=part_name(share)):
        known = [] if overwrite else known_records([job], store, exchange)
        if known and not surpasses(job, known[0]):
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
    save_adversarial: int | Literal["all"] = 0,
) -> Recorded:
    """Make a record of the parts that shards, ranks or interrupted evaluations have left; nothing is attacked.

    The checks before and after the attacks need the model: a run must be in ``checkpoints_dir`` or where it was, any
    other model where it was.

    Raises:
        UserError: there are no parts, the model is another one now, or samples are missing; the parts stay.
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
        source = source_again(this.model, checkpoints_dir)
        config = validated(EvalConfig, this.config, what=f"evaluation {record_id}")
        job = prepare(config, source, workspace, name=this.name)
        if job.id != record_id:
            raise UserError(
                f"the parts of {record_id} are about other weights or images than those of {job.source.label} and "
                f"{config.dataset}"
            )
        if unfit := unfit_parts(record_id, about(job, overwrite=False), store):
            names = ", ".join(part or "the first" for part, _ in unfit)
            raise UserError(
                f"parts of {record_id} ({names}) were left by another version; give their eval commands again"
            )
        require_room(job, save_adversarial)
        result, missing = _joined(job, journal, store)
        if missing:
            raise UserError(f"{record_id}: {_missing_text(missing, result.n, journal.parts)}")
        effort, _ = Tried(journal.entries, certificate_key(job)).reached(range(result.n), result)
        job = replace(job, effort=effort)
        known = None if this.overwrite else known_record(job, store)
        if known is not None:
            result, _ = _joined(job, journal, store, known)
            job = replace(job, effort=effort_with(job, known))
        checks = check_before(job, workspace)
        record = conclude(job, result, checks, store, parts=len(journal.parts), save_adversarial=save_adversarial)
        journal.delete()
    return Recorded(record, reused=False)


def _joined(
    job: Job, journal: Journal, store: ResultStore, known: Record | None = None
) -> tuple[Evaluation, list[int]]:
    """Return the outcome that the parts and a known record amount to, and the positions of samples that lack one."""
    every = np.ones(len(job.samples), dtype=bool)
    evidence = [] if known is None else evidence_of(known, job, store, part=journal.part, mine=every)
    result, missing = replayed(
        job.attacks,
        job.config.threat.threat(),
        [*evidence, *journal.entries],
        index=np.arange(len(job.samples)),
        label=job.samples.labels.numpy(),
        num_classes=job.model.num_classes,
    )
    size = job.config.batch_size
    result.batch_size = (noted_batch_size(journal.entries) or MOST_IMAGES) if size == "auto" else size
    if keeps_images(job):
        result.keep_images(job.samples.images)
        if known is not None:
            positions, images = images_of(known, job, store, mine=every)
            result.put_images(positions, torch.from_numpy(images))
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
