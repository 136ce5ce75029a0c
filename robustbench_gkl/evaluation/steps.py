"""The steps from a job to its record, which all kinds of evaluation are made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.version import __version__
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.outcome import Evaluation
from robustbench_gkl.evaluation.preflight import MOST_IMAGES, preflight
from robustbench_gkl.evaluation.replay import COUNTED, StageLog, stage_logs
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.subject import Job, adversarial_bytes, candidates_in_ball, make_record
from robustbench_gkl.evaluation.verify import verify
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.ranks.exchange import Exchange
from robustbench_gkl.results.journal import About, Journal, about_part, delete_part
from robustbench_gkl.results.record import Check, Record, canonical_hash, unpack_standing
from robustbench_gkl.results.store import ResultStore, verdict_bytes

_LOGGER = logging.getLogger("robustbench_gkl")
_MOST_KEPT = 2**31
"""Bytes of adversarial images that are kept to be looked at again."""


def known_record(job: Job, store: ResultStore) -> Record | None:
    """Return the record that answers a job, under its id or that of version 1; None if there is none."""
    if (record := _whole(job.id, store)) is not None:
        return record
    earlier = _whole(job.first_id, store)
    if earlier is None or earlier.schema_version != 1 or earlier.model.model_sha256 != job.model_sha256:
        return None
    same_batches = job.config.engine == "native" or earlier.batch_size == job.config.batch_size
    return earlier if same_batches else None


def _whole(record_id: str, store: ResultStore) -> Record | None:
    try:
        return store.load(record_id)
    except UserError as error:
        _LOGGER.warning("%s; it is made again", error)
        return None


def known_records(jobs: Sequence[Job], store: ResultStore, exchange: Exchange) -> list[Record]:
    """Return the records of ``jobs`` if all are there and complete; else none."""

    def find() -> list[Record]:
        found = [record for job in jobs if (record := known_record(job, store)) is not None]
        return found if len(found) == len(jobs) and not any(record.partial for record in found) else []

    return from_leader(exchange, find)


def from_leader(exchange: Exchange, make: Callable[[], list[Record]]) -> list[Record]:
    """Return on all ranks what ``make`` returns on rank 0."""
    told = exchange.from_leader(lambda: [record.model_dump_json() for record in make()])
    return [Record.model_validate_json(text) for text in told]


def about(job: Job, *, overwrite: bool) -> About:
    """Return the first line of a job's journal."""
    return About(
        gklbench=__version__,
        protocol_sha256=canonical_hash(job.protocol),
        overwrite=overwrite,
        run=str(job.run.folder.resolve()),
        name=job.name,
        weights=job.weights,
        config=job.config.model_dump(mode="json"),
    )


def unfit_parts(record_id: str, this: About, store: ResultStore) -> list[tuple[str, About | None]]:
    """Return the parts of a journal that ``this`` cannot go on with, and what they say that they are about.

    They are an earlier version's, or hold what is to be made again from scratch. What an interrupted ``--overwrite``
    has left is gone on with by the next one. The files are only looked at: their owners may be at work.
    """
    told = {part: about_part(path) for part, path in store.parts(record_id).items()}
    return [
        (part, found)
        for part, (lines, found) in told.items()
        if lines and (found is None or not found.goes_on_as(this))
    ]


def discard_old(record_id: str, this: About, store: ResultStore) -> None:
    """Delete the parts that ``this`` cannot go on with; the caller holds the journal for itself."""
    for part, found in unfit_parts(record_id, this, store):
        if not this.overwrite:
            version = "an earlier version" if found is None else f"version {found.gklbench}"
            _LOGGER.warning("what %s has left of %s does not fit this one and is dropped", version, record_id)
        delete_part(store.parts(record_id)[part])


def keep_evidence(job: Job, journal: Journal, share: Share, store: ResultStore) -> None:
    """Write into a new part of a journal what a partial record knows to be broken.

    No evaluation without it may replace the record. The clean predictions come last: a part without them is not done.
    """
    record = known_record(job, store)
    if record is None or not record.partial or any("clean" in entry for entry in journal.own):
        return
    try:
        verdicts = store.verdicts(record).sort_values("index").reset_index(drop=True)
    except UserError as error:
        _LOGGER.warning("%s; what it has broken is not known", error)
        return
    mine = share.samples(len(verdicts))
    clean = [(place, int(verdicts["clean_pred"][place])) for place in np.flatnonzero(mine).tolist()]
    for log, fallen in _broken_in(record, job, verdicts, mine):
        entry: dict[str, Any] = {"stage": log.key, "done": [], "fallen": fallen.tolist(), "part": journal.part}
        entry["adv_pred"] = verdicts["adv_pred"].iloc[fallen].astype(int).tolist()
        entry["distance"] = verdicts["distance"].iloc[fallen].tolist()
        journal.append(entry | dict.fromkeys(COUNTED, 0) | {"seconds": 0.0})
    journal.append({"clean": clean})


def _broken_in(
    record: Record, job: Job, verdicts: pd.DataFrame, mine: np.ndarray
) -> Iterator[tuple[StageLog, np.ndarray]]:
    """Yield the stages of a job and the positions of the samples that fell in each, as a record tells.

    Where it tells what stood after each attack, a stage's name need not be the only one of that name.
    """
    broken_by = verdicts["broken_by"].fillna("").to_numpy(dtype=str)
    left = mine & ~np.isin(broken_by, ["", "clean"])
    threat, classes = job.config.threat, job.model.num_classes
    for place, (attack, variant) in enumerate(job.attacks):
        after = record.attacks[place].standing if place < len(record.attacks) else ""
        here = left & ~unpack_standing(after, len(left)) if after else left
        logs = stage_logs(attack, variant, threat, num_classes=classes)
        for log in logs:
            named = here & (broken_by == log.name)
            if after and log is logs[-1]:
                named = here & left  # whatever it was called
            left &= ~named
            yield log, np.flatnonzero(named)
    if left.any():
        _LOGGER.warning("%s names no stage for %d of the samples that it has broken", record.id, int(left.sum()))


def part_name(share: Share) -> str:
    """Return the name of the part of a journal that this process writes."""
    rank, shard = share.exchange.world.rank, share.shard
    return str(rank) if shard is None else f"{shard.number}of{shard.of}.{rank}"


def open_journal(job: Job, store: ResultStore, share: Share, *, overwrite: bool) -> Journal:
    """Open this process's part of the journal, which begins with what it is about."""
    leads, part = share.exchange.world.leads, part_name(share)
    journal = store.journal(job.id, part, shared=False)
    if not journal.own:
        journal.append(about(job, overwrite=overwrite).entry())
    share.exchange.gather(None)  # rank 0 reads what the others have opened
    if not leads:
        return journal
    journal = store.journal(job.id, part)
    if not overwrite:
        keep_evidence(job, journal, share, store)
    return journal


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
    if save_adversarial and not _kept_instead(result, job, store):
        store.save_adversarial(job.id, adversarial_bytes(result, images, save_adversarial))
    return save(job, result, [*checks, *candidates_in_ball(result), *found], store, processes=parts)


def save(job: Job, result: Evaluation, checks: Sequence[Check], store: ResultStore, *, processes: int = 1) -> Record:
    """Write the record and the verdicts of an outcome, in place of what version 1 called by another id.

    A partial record replaces no complete one; it is returned and not written.
    """
    verdicts = verdict_bytes(result.verdicts())
    record = make_record(job, result, checks, verdicts, processes=processes)
    if _kept_instead(result, job, store):
        return record
    earlier = known_record(job, store)
    store.save(record, verdicts)
    if earlier is not None and earlier.id != record.id:
        store.delete(earlier)
    return record


def _kept_instead(result: Evaluation, job: Job, store: ResultStore) -> bool:
    """Return whether a complete record is there that a partial outcome does not replace."""
    earlier = known_record(job, store) if result.partial else None
    return earlier is not None and not earlier.partial
