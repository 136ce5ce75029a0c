"""The steps from a job to its record, which all kinds of evaluation are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from robustbench_gkl.config import EvalConfig
from robustbench_gkl.evaluation.engine import evaluate
from robustbench_gkl.evaluation.outcome import Evaluation, Progress
from robustbench_gkl.evaluation.preflight import MOST_IMAGES, preflight
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.subject import Job, adversarial_bytes, candidates_in_ball, make_record
from robustbench_gkl.evaluation.verify import verify
from robustbench_gkl.exchange import Exchange
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import Check, Record
from robustbench_gkl.results.store import ResultStore, verdict_bytes

_MOST_KEPT = 2**31
"""Bytes of adversarial images that are kept to be looked at again."""


def known_records(jobs: Sequence[Job], store: ResultStore, exchange: Exchange, *, overwrite: bool) -> list[Record]:
    """Return the records of ``jobs`` if all are there and to be kept; else make room for them and return none."""
    store.prepare()

    def settle() -> list[Record]:
        found = [record for job in jobs if (record := known_record(job, store)) is not None]
        for record in found if overwrite else ():
            if record.partial:
                store.journal(record.id).delete()
                store.delete(record)
        whole = len(found) == len(jobs) and not any(record.partial for record in found)
        return found if whole and not overwrite else []

    return from_leader(exchange, settle)


def known_record(job: Job, store: ResultStore) -> Record | None:
    """Return the record that answers a job, under its id or that of version 1; None if there is none."""
    if (record := store.load(job.id)) is not None:
        return record
    earlier = store.load(job.first_id)
    if earlier is None or earlier.schema_version != 1 or earlier.model.model_sha256 != job.model_sha256:
        return None
    same_batches = job.config.engine == "native" or earlier.batch_size == job.config.batch_size
    return earlier if same_batches else None


def from_leader(exchange: Exchange, make: Callable[[], list[Record]]) -> list[Record]:
    """Return on all ranks what ``make`` returns on rank 0."""
    told = exchange.from_leader(lambda: [record.model_dump_json() for record in make()])
    return [Record.model_validate_json(text) for text in told]


def open_journal(job: Job, store: ResultStore, share: Share) -> Journal:
    """Open this process's part of the journal, which begins with what it is about."""
    world, shard = share.exchange.world, share.shard
    part = str(world.rank) if shard is None else f"{shard.number}of{shard.of}.{world.rank}"
    about = {"run": job.run.name, "weights": job.weights, "config": job.config.model_dump(mode="json")}
    journal = store.journal(job.id, part, shared=False)
    if not journal.own:
        journal.append({"evaluation": about})
    share.exchange.gather(None)  # rank 0 reads what the others have opened
    return store.journal(job.id, part) if world.leads else journal


def options(config: EvalConfig) -> dict[str, Any]:
    """Return what ``config`` says of how to search."""
    keys = ("seed", "batch_size", "search_precision", "compiled")
    return {key: getattr(config, key) for key in keys}


def check_before(
    job: Job, share: Share, batch_size: int, on_checks: Callable[[Sequence[Check]], None] | None
) -> list[Check]:
    """Return what rank 0 finds before the attacks; the others wait for it."""
    checks: list[Check] = []
    if share.exchange.world.leads:
        images, labels = job.samples.images, job.samples.labels
        checks = preflight(job.model, images, labels, randomised=job.randomised, batch_size=batch_size)
        if on_checks is not None:
            on_checks(checks)
    share.exchange.gather(None)
    return checks


def attack(
    job: Job,
    share: Share,
    journal: Journal,
    *,
    time_limit: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_checks: Callable[[Sequence[Check]], None] | None = None,
) -> tuple[list[Check], Evaluation]:
    """Return the checks before the attacks, and what these find."""
    images, size = job.samples.images, job.config.batch_size
    checks = check_before(job, share, min(MOST_IMAGES, len(images) if size == "auto" else size), on_checks)
    result = evaluate(
        job.model,
        images,
        job.samples.labels,
        job.config.threat.threat(),
        job.attacks,
        reference=job.config.engine == "reference",
        time_limit=time_limit,
        journal=journal,
        share=share,
        keep_adversarial=4 * images.numel() <= _MOST_KEPT,
        on_progress=on_progress,
        **options(job.config),
    )
    return checks, result


def conclude(
    job: Job,
    result: Evaluation,
    checks: list[Check],
    store: ResultStore,
    journal: Journal,
    *,
    save_adversarial: int,
) -> Record:
    """Check what was found, and write record and verdicts."""
    images, threat = job.samples.images, job.config.threat.threat()
    found = verify(
        result,
        job.model,
        images,
        job.samples.labels,
        threat,
        seed=job.config.seed,
        randomised=job.randomised,
        batch_size=result.batch_size,
    )
    if save_adversarial:
        store.save_adversarial(job.id, adversarial_bytes(result, images, save_adversarial))
    return save(job, result, checks + candidates_in_ball(result) + found, store, processes=len(journal.parts))


def save(job: Job, result: Evaluation, checks: Sequence[Check], store: ResultStore, *, processes: int = 1) -> Record:
    """Write the record and the verdicts of an outcome."""
    verdicts = verdict_bytes(result.verdicts())
    record = make_record(job, result, checks, verdicts, processes=processes)
    store.save(record, verdicts)
    return record
