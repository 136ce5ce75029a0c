"""One evaluation of a run, from its configuration to its record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustbench_gkl.attacks import Attack, parse_attack, protocol_of
from robustbench_gkl.config import EvalConfig
from robustbench_gkl.data import load_dataset
from robustbench_gkl.device import environment
from robustbench_gkl.errors import UserError
from robustbench_gkl.evaluation.engine import evaluate, refuse_duplicates
from robustbench_gkl.evaluation.outcome import Evaluation, Progress
from robustbench_gkl.exact import format_fraction
from robustbench_gkl.results.record import (
    Check,
    DataInfo,
    ModelInfo,
    Record,
    ThreatInfo,
    canonical_hash,
    record_id,
)
from robustbench_gkl.results.store import ResultStore, verdict_bytes
from robustbench_gkl.training import Run, weights_sha256
from robustbench_gkl.training.checkpoint import WeightsName, now


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
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Evaluate a run and write its record and verdicts.

    An evaluation that was done already is returned as it is; one that was interrupted, or stopped by a time limit,
    goes on.

    Args:
        config: what to measure.
        run: the model.
        store: the results folder.
        weights: which of the run's weights; None for the preferred ones.
        device: where to run.
        data_dir: where downloaded data sets are kept.
        overwrite: measure again even if the record exists.
        time_limit: seconds after which to stop with a partial record; None for no limit.
        on_progress: called a few times a second.

    Raises:
        UserError: anything in the configuration, the run or the data that cannot be used.
    """
    threat = config.threat.threat()
    attacks = [parse_attack(spec) for spec in config.attacks]
    refuse_duplicates(attacks)
    if config.engine == "reference":
        for attack in attacks:
            attack.reference(threat)
    which = run.choose(weights)
    model = run.load_model(which, device=device)
    images = load_dataset(config.dataset, data_dir=data_dir).load(config.split)
    if config.n is not None:
        if config.n > len(images):
            raise UserError(f"--n is {config.n}, but {config.dataset} has {len(images)} {config.split} images")
        images = images.take(torch.arange(config.n))
    if images.shape != model.input_shape or len(images.classes) != model.num_classes:
        raise UserError(
            f"run {run.name} takes {_size(model.input_shape)} images of {model.num_classes} classes, but "
            f"{config.dataset} has {_size(images.shape)} images of {len(images.classes)} classes"
        )
    store.prepare()
    variants: Sequence[Attack] = (
        [attack.reference(threat) for attack in attacks] if config.engine == "reference" else attacks
    )
    protocol = protocol_of(variants, threat, num_classes=model.num_classes)
    for attack_protocol in protocol:
        attack_protocol.update(_shortcuts(config))
    digest = weights_sha256(model)
    identity = record_id(
        name=run.name,
        weights_sha256=digest,
        data_sha256=images.sha256,
        threat=str(threat),
        protocol=protocol,
        engine=config.engine,
        seed=config.seed,
    )
    existing = store.load(identity)
    journal = store.journal(identity)
    if existing is not None and not existing.partial and not overwrite:
        return Outcome(existing, reused=True)
    if existing is not None and existing.partial and overwrite:
        journal.delete()
        store.delete(existing)
        journal = store.journal(identity)
    result = evaluate(
        model,
        images.images,
        images.labels,
        threat,
        attacks,
        seed=config.seed,
        batch_size=config.batch_size,
        reference=config.engine == "reference",
        search_precision=config.search_precision,
        compiled=config.compiled,
        time_limit=time_limit,
        journal=journal,
        on_progress=on_progress,
    )
    verdicts = verdict_bytes(result.verdicts())
    trained = run.config().train
    record = Record(
        id=identity,
        created=now(),
        model=ModelInfo(
            name=run.name,
            arch=run.config().arch,
            loss=trained.loss if trained is not None else None,
            params=sum(parameter.numel() for parameter in model.parameters()),
            weights=which,
            weights_sha256=digest,
            train_config=trained.model_dump(mode="json") if trained is not None else None,
        ),
        data=DataInfo(
            dataset=config.dataset,
            split=config.split,
            n=len(images),
            sha256=images.sha256,
            index_ranges=_ranges(torch.arange(len(images))),
        ),
        threat=ThreatInfo(norm=threat.norm, eps=format_fraction(threat.eps)),
        protocol=tuple(protocol),
        protocol_sha256=canonical_hash(protocol),
        engine=config.engine,
        seed=config.seed,
        batch_size=result.batch_size,
        clean_acc=result.clean_acc,
        attacks=tuple(result.attacks),
        worst_case_acc=result.robust_acc,
        checks=_checks(result),
        partial=result.partial,
        seconds=round(result.seconds, 3),
        environment=environment(device),
        verdicts_sha256=hashlib.sha256(verdicts).hexdigest(),
    )
    store.save(record, verdicts)
    if not record.partial:
        journal.delete()
    return Outcome(record, reused=False)


def _shortcuts(config: EvalConfig) -> dict[str, object]:
    """Return what the protocol says about cheaper searching; nothing by default."""
    precision = {} if config.search_precision == "float32" else {"search_precision": config.search_precision}
    return precision | ({"compiled": True} if config.compiled else {})


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _ranges(index: Tensor) -> tuple[tuple[int, int], ...]:
    """Return sorted indices as half-open ranges."""
    breaks = (index.diff() != 1).nonzero().flatten() + 1
    parts = torch.tensor_split(index, breaks.tolist())
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


def _checks(result: Evaluation) -> tuple[Check, ...]:
    rejected = sum(stage.rejected for attack in result.attacks for stage in attack.stages)
    return (
        Check(
            name="candidates-in-ball",
            verdict="WARN" if rejected else "PASS",
            figure=f"{rejected} rejected",
            advice="An attack left the threat model; its images were not counted." if rejected else "",
        ),
    )
