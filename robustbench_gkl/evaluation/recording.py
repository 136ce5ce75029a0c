"""The record of a job: made of an outcome, looked up and saved."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.certification.network import MARGIN
from robustbench_gkl.core.environment import environment
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import format_fraction
from robustbench_gkl.evaluation.certifying import has_certification
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.job import Job
from robustbench_gkl.ranks.exchange import Exchange
from robustbench_gkl.results.record import (
    Certificates,
    Check,
    DataInfo,
    Record,
    ThreatInfo,
    canonical_hash,
    pack_standing,
)
from robustbench_gkl.results.store import ResultStore, verdict_bytes
from robustbench_gkl.runs import now


def make_record(
    job: Job, result: Evaluation, checks: Sequence[Check], verdicts: bytes, *, processes: int = 1
) -> Record:
    """Return the record of an outcome whose verdicts are ``verdicts`` (parquet), found by ``processes`` processes."""
    where = environment(job.device) | ({"processes": str(processes)} if processes > 1 else {})
    config = job.config
    resolved = {
        "n": len(job.samples),
        "attacks": tuple(attack.canonical for attack, _ in job.attacks),
        "batch_size": result.batch_size,
    }
    return Record(
        id=job.id,
        created=now(),
        model=job.subject.info(job.name),
        data=DataInfo(
            dataset=config.dataset,
            split=config.split,
            n=len(job.samples),
            sha256=job.samples.sha256,
            sample_set=f"first {len(job.samples)}" if job.index is None else "chosen",
            index_ranges=_ranges(torch.arange(len(job.samples)) if job.index is None else job.index.sort().values),
            blocks=job.samples.blocks,
        ),
        threat=ThreatInfo(norm=config.threat.norm, eps=format_fraction(config.threat.eps)),
        config=config.model_copy(update=resolved),
        protocol=tuple(job.protocol),
        protocol_sha256=canonical_hash(job.protocol),
        engine=config.engine,
        seed=config.seed,
        batch_size=result.batch_size,
        clean_acc=result.clean_acc,
        attacks=tuple(result.attacks),
        worst_case_acc=result.robust_acc,
        checks=tuple(checks),
        partial=result.partial,
        seconds=round(result.seconds, 3),
        environment=where,
        verdicts_sha256=hashlib.sha256(verdicts).hexdigest(),
        standing=pack_standing(result.standing),
        teacher=None if job.subject.teacher is None else job.subject.teacher.name,
        certified=_certificates(job, result),
    ).sealed()


def _certificates(job: Job, result: Evaluation) -> Certificates | None:
    """Return what was proved; None where nobody asked, or where certificates that were to spare attacks are off."""
    if result.certified_by is None and not has_certification(job.attacks):
        return None
    effort = job.effort or Effort()
    proved = np.array([result.is_certified(position) for position in range(result.n)])
    names = [] if result.certified_by is None else result.certified_by[proved].tolist()
    return Certificates(
        proved=int(proved.sum()),
        methods={method: names.count(method) for method in sorted(set(names))},
        undecided=int((result.standing & ~proved).sum()),
        samples=pack_standing(proved),
        margin=MARGIN,
        complete=effort.complete,
        seconds_each=effort.seconds,
        calls_each=effort.calls,
    )


def adversarial_bytes(result: Evaluation, images: Tensor, count: int | Literal["all"]) -> bytes:
    """Return an npz of the first ``count`` samples whose adversarial images were kept, or of all.

    It holds ``index``, ``images`` float32 in [0, 1] and ``original``.
    """
    fallen = ~result.standing & (result.clean_pred == result.label)
    found, rows = images[:0].float(), np.flatnonzero(fallen)[:0]
    if result.adversarial is not None and result.has_adversarial is not None:
        rows = np.flatnonzero(fallen & result.has_adversarial)[: None if count == "all" else count]
        found = result.adversarial[rows]
    buffer = io.BytesIO()
    np.savez(buffer, index=result.index[rows], images=found.numpy(), original=images[rows].cpu().numpy())
    return buffer.getvalue()


def _ranges(index: Tensor) -> tuple[tuple[int, int], ...]:
    """Return sorted indices as half-open ranges."""
    breaks = (index.diff() != 1).nonzero().flatten() + 1
    parts = torch.tensor_split(index, breaks.tolist())
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


LOGGER = logging.getLogger("robustbench_gkl")


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
        LOGGER.warning("%s; it is made again", error)
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


def save(job: Job, result: Evaluation, checks: Sequence[Check], store: ResultStore, *, processes: int = 1) -> Record:
    """Write the record and the verdicts of an outcome, in place of the one that version 1 had under another id.

    A partial record replaces no complete one; it is returned and not written.
    """
    verdicts = verdict_bytes(result.verdicts())
    record = make_record(job, result, checks, verdicts, processes=processes)
    if kept_instead(result, job, store):
        return record
    earlier = known_record(job, store)
    store.save(record, verdicts)
    if earlier is not None and earlier.id != record.id:
        store.delete(earlier)
    return record


def kept_instead(result: Evaluation, job: Job, store: ResultStore) -> bool:
    """Return whether a complete record is there that a partial outcome does not replace."""
    earlier = known_record(job, store) if result.partial else None
    return earlier is not None and not earlier.partial
