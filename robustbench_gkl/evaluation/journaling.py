"""The journal of a job: opened, checked against the job, and filled with what is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.version import __version__
from robustbench_gkl.evaluation.certified import certificate_key, surpasses
from robustbench_gkl.evaluation.job import Job
from robustbench_gkl.evaluation.recording import LOGGER, known_record
from robustbench_gkl.evaluation.replay import COUNTED, StageLog, stage_logs
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.results.journal import About, Journal, about_part, delete_part
from robustbench_gkl.results.record import Record, canonical_hash, unpack_standing
from robustbench_gkl.results.store import CERTIFIED, ResultStore

if TYPE_CHECKING:
    import pandas as pd


def about(job: Job, *, overwrite: bool) -> About:
    """Return the first line of a job's journal."""
    return About(
        gklbench=__version__,
        protocol_sha256=canonical_hash(job.protocol),
        overwrite=overwrite,
        model=job.source.reference(),
        name=job.name,
        config=job.config.model_dump(mode="json"),
    )


def unfit_parts(record_id: str, this: About, store: ResultStore) -> list[tuple[str, About | None]]:
    """Return the parts of a journal that ``this`` cannot go on with, each with its first line.

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
            LOGGER.warning("what %s has left of %s does not fit this one and is dropped", version, record_id)
        delete_part(store.parts(record_id)[part])


def keep_evidence(job: Job, journal: Journal, share: Share, store: ResultStore) -> None:
    """Write the verdicts of a record that is gone on with, and images kept with it, into a new part of a journal.

    No evaluation without those of a partial record may replace it. The clean predictions come last: a part without
    them is not done.
    """
    record = known_record(job, store)
    if record is None or any("clean" in entry for entry in journal.own):
        return
    if not record.partial and not surpasses(job, record):
        return
    mine = share.samples(len(job.samples))
    positions, images = images_of(record, job, store, mine=mine)
    if len(positions):
        journal.append_images(positions.tolist(), images)
    for entry in evidence_of(record, job, store, part=journal.part, mine=mine):
        journal.append(entry)


def images_of(record: Record, job: Job, store: ResultStore, *, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (n,) and adversarial images (n, C, H, W) that are kept with a job's record.

    Args:
        record, job, store, mine: as for :func:`evidence_of`.
    """
    nothing = np.zeros(0, dtype=np.int64), np.zeros((0, *job.samples.shape), dtype=np.float32)
    index, images = store.adversarial(record.id) or nothing
    places = {place: position for position, place in enumerate(_order(job).tolist()) if mine[position]}
    known = np.array([place in places for place in index.tolist()], dtype=bool)
    return np.array([places[place] for place in index[known].tolist()], dtype=np.int64), images[known]


def _order(job: Job) -> np.ndarray:
    """Return (N,): the indices of a job's samples in the order of its journal."""
    return np.arange(len(job.samples)) if job.index is None else job.index.numpy()


def evidence_of(record: Record, job: Job, store: ResultStore, *, part: str, mine: np.ndarray) -> list[dict[str, Any]]:
    """Return the verdicts of a job's record as entries of a journal.

    Args:
        record: the record.
        job: what it is about.
        store: where its verdicts are; nothing is returned where they cannot be read, with a warning.
        part: the name of the journal's part.
        mine: (N,) bool: which samples are wanted.
    """
    try:
        verdicts = store.verdicts(record).set_index("index").loc[_order(job)].reset_index()
    except UserError as error:
        LOGGER.warning("%s; what it has broken is not known", error)
        return []
    entries = []
    if CERTIFIED in verdicts:
        proved = np.flatnonzero(mine & verdicts[CERTIFIED].notna().to_numpy())
        pairs = [(place, verdicts[CERTIFIED][place]) for place in proved.tolist()]
        entries.append(_entry(certificate_key(job), part) | {"certified": pairs, "bounded": proved.tolist()})
    for log, fallen in _broken_in(record, job, verdicts, mine):
        entry = _entry(log.key, part) | {"fallen": fallen.tolist()}
        entry["adv_pred"] = verdicts["adv_pred"].iloc[fallen].astype(int).tolist()
        entry["distance"] = verdicts["distance"].iloc[fallen].tolist()
        entries.append(entry)
    clean = [(place, int(verdicts["clean_pred"][place])) for place in np.flatnonzero(mine).tolist()]
    return [*entries, {"clean": clean}]


def _entry(key: str, part: str) -> dict[str, Any]:
    """Return an entry of a stage in which nothing was found, and nothing spent."""
    nothing: dict[str, Any] = {"stage": key, "done": [], "fallen": [], "adv_pred": [], "distance": []}
    return nothing | dict.fromkeys(COUNTED, 0) | {"seconds": 0.0, "part": part}


def _broken_in(
    record: Record, job: Job, verdicts: pd.DataFrame, mine: np.ndarray
) -> Iterator[tuple[StageLog, np.ndarray]]:
    """Yield the stages of a job and the positions of the samples that fell in each, read from a record.

    Where the record has the samples that stood after each attack, two stages may share a name.
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
        LOGGER.warning("%s names no stage for %d of the samples that it has broken", record.id, int(left.sum()))


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
