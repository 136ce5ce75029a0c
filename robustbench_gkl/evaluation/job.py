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
from robustbench_gkl.data import ImageSet, load_dataset
from robustbench_gkl.device import environment
from robustbench_gkl.errors import UserError
from robustbench_gkl.evaluation.engine import Evaluation, Progress, evaluate, refuse_duplicates
from robustbench_gkl.evaluation.preflight import preflight
from robustbench_gkl.evaluation.verify import verify
from robustbench_gkl.exact import format_fraction
from robustbench_gkl.models import Classifier
from robustbench_gkl.results.record import (
    Check,
    DataInfo,
    ModelInfo,
    Record,
    ThreatInfo,
    canonical_hash,
    pack_standing,
    record_id,
)
from robustbench_gkl.results.store import ResultStore, verdict_bytes
from robustbench_gkl.training import Run, weights_sha256
from robustbench_gkl.training.checkpoint import WeightsName, now

_MOST_KEPT = 2**31
"""Bytes of adversarial images that are kept in memory to be looked at again."""


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
    on_progress: Callable[[Progress], None] | None = None,
    on_checks: Callable[[Sequence[Check]], None] | None = None,
) -> Outcome:
    """Evaluate a run and write its record and verdicts.

    An evaluation that was done already is returned as it is; one that was interrupted goes on.

    Args:
        config: what to measure.
        run: the model.
        store: the results folder.
        weights: which of the run's weights; None for the preferred ones.
        device: where to run.
        data_dir: where downloaded data sets are kept.
        overwrite: measure again even if the record exists.
        on_progress: called after each batch.
        on_checks: called with what was found before the attacks; whatever it is, they are run.

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
    images = load_samples(config, run, model, data_dir=data_dir)
    store.prepare()
    variants: Sequence[Attack] = (
        [attack.reference(threat) for attack in attacks] if config.engine == "reference" else attacks
    )
    protocol = protocol_of(variants, threat, num_classes=model.num_classes)
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
    if existing is not None and not overwrite:
        return Outcome(existing, reused=True)
    randomised = any(getattr(attack, "version", None) == "rand" for attack in attacks)
    size = config.batch_size
    checks = preflight(model, images.images, images.labels, randomised=randomised, batch_size=min(size, 128))
    if on_checks is not None:
        on_checks(checks)
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
        journal=journal,
        keep_adversarial=4 * images.images.numel() <= _MOST_KEPT,
        on_progress=on_progress,
    )
    checks += _candidates_in_ball(result)
    checks += verify(
        result,
        model,
        images.images,
        images.labels,
        threat,
        seed=config.seed,
        randomised=randomised,
        batch_size=size,
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
        batch_size=config.batch_size,
        clean_acc=result.clean_acc,
        attacks=tuple(result.attacks),
        worst_case_acc=result.robust_acc,
        checks=tuple(checks),
        seconds=round(result.seconds, 3),
        environment=environment(device),
        verdicts_sha256=hashlib.sha256(verdicts).hexdigest(),
        standing=pack_standing(result.standing),
    )
    store.save(record, verdicts)
    journal.delete()
    return Outcome(record, reused=False)


def load_samples(config: EvalConfig, run: Run, model: Classifier, *, data_dir: Path) -> ImageSet:
    """Return the images that ``config`` names.

    Raises:
        UserError: there are not as many, or the model takes images of another size or other classes.
    """
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
    return images


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _ranges(index: Tensor) -> tuple[tuple[int, int], ...]:
    """Return sorted indices as half-open ranges."""
    breaks = (index.diff() != 1).nonzero().flatten() + 1
    parts = torch.tensor_split(index, breaks.tolist())
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


def _candidates_in_ball(result: Evaluation) -> list[Check]:
    rejected = sum(stage.rejected for attack in result.attacks for stage in attack.stages)
    return [
        Check(
            name="candidates-in-ball",
            verdict="WARN" if rejected else "PASS",
            figure=f"{rejected} rejected",
            advice="An attack left the threat model; its images were not counted." if rejected else "",
        )
    ]
