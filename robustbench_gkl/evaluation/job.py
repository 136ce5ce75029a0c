"""One evaluation of a run, from its configuration to its record."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks import Attack, parse_attack, protocol_of
from robustbench_gkl.config import EvalConfig, ThreatConfig
from robustbench_gkl.data import ImageSet, load_dataset
from robustbench_gkl.device import environment
from robustbench_gkl.errors import UserError
from robustbench_gkl.evaluation.curve import evaluate_curve, grid_text
from robustbench_gkl.evaluation.engine import evaluate, refuse_duplicates
from robustbench_gkl.evaluation.outcome import Evaluation, Progress
from robustbench_gkl.evaluation.preflight import MOST_IMAGES, preflight
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


@dataclass(frozen=True)
class _Job:
    """What an evaluation is about, and the name under which its record is kept."""

    config: EvalConfig
    run: Run
    weights: WeightsName
    model: Classifier
    samples: ImageSet
    attacks: Sequence[Attack]
    protocol: list[dict[str, Any]]
    weights_sha256: str

    @property
    def id(self) -> str:
        return record_id(
            name=self.run.name,
            weights_sha256=self.weights_sha256,
            data_sha256=self.samples.sha256,
            threat=str(self.config.threat.threat()),
            protocol=self.protocol,
            engine=self.config.engine,
            seed=self.config.seed,
        )

    @property
    def randomised(self) -> bool:
        """Whether the attacks average over a model's random answers."""
        return any(getattr(attack, "version", None) == "rand" for attack in self.attacks)


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
    save_adversarial: int = 0,
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
        time_limit: seconds after which to stop with a partial record; None for no limit.
        save_adversarial: how many adversarial images to write beside the verdicts, for reports.
        on_progress: called a few times a second.
        on_checks: called with what was found before the attacks; whatever it is, they are run.

    Raises:
        UserError: anything in the configuration, the run or the data that cannot be used.
    """
    job = _prepare(config, run, weights=weights, device=device, data_dir=data_dir)
    store.prepare()
    existing = store.load(job.id)
    if existing is not None and not existing.partial and not overwrite:
        return Outcome(existing, reused=True)
    journal = store.journal(job.id)
    if existing is not None and existing.partial and overwrite:
        journal.delete()
        store.delete(existing)
        journal = store.journal(job.id)
    images, labels, threat = job.samples.images, job.samples.labels, config.threat.threat()
    small = min(MOST_IMAGES, len(images) if config.batch_size == "auto" else config.batch_size)
    checks = preflight(job.model, images, labels, randomised=job.randomised, batch_size=small)
    if on_checks is not None:
        on_checks(checks)
    result = evaluate(
        job.model,
        images,
        labels,
        threat,
        job.attacks,
        seed=config.seed,
        batch_size=config.batch_size,
        reference=config.engine == "reference",
        search_precision=config.search_precision,
        compiled=config.compiled,
        time_limit=time_limit,
        journal=journal,
        keep_adversarial=4 * images.numel() <= _MOST_KEPT,
        on_progress=on_progress,
    )
    checks += _candidates_in_ball(result)
    checks += verify(
        result,
        job.model,
        images,
        labels,
        threat,
        seed=config.seed,
        randomised=job.randomised,
        batch_size=result.batch_size,
    )
    verdicts = verdict_bytes(result.verdicts())
    record = _record(job, result, checks, verdicts, device)
    if save_adversarial:
        store.save_adversarial(record.id, _adversarial_bytes(result, images, save_adversarial))
    store.save(record, verdicts)
    if not record.partial:
        journal.delete()
    return Outcome(record, reused=False)


def evaluate_grid(
    config: EvalConfig,
    radii: tuple[Fraction, ...],
    run: Run,
    store: ResultStore,
    *,
    weights: WeightsName | None = None,
    device: torch.device,
    data_dir: Path = Path("data"),
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Outcome]:
    """Evaluate a run under one attack at several radii and write a record for each.

    Their protocol names the radii, so they are not ranked with evaluations at a single one.

    Args:
        config: what to measure, with one native attack; its radius does not matter.
        radii: see :func:`~robustbench_gkl.evaluation.curve.parse_grid`.
        run, store, weights, device, data_dir, overwrite, on_progress: as for :func:`evaluate_run`.

    Raises:
        UserError: as :func:`evaluate_run`; several attacks, or the reference engine.
    """
    if len(config.attacks) != 1 or config.engine != "native":
        raise UserError("--eps-grid takes one --attack, run by the native engine")
    base = _prepare(config, run, weights=weights, device=device, data_dir=data_dir)
    jobs = [_at_radius(base, eps, radii) for eps in radii]
    store.prepare()
    existing = [store.load(job.id) for job in jobs]
    if all(existing) and not overwrite:
        return [Outcome(record, reused=True) for record in existing if record is not None]
    journal = store.journal(f"{run.name}-{canonical_hash([job.id for job in jobs])[:12]}")
    images, labels = base.samples.images, base.samples.labels
    checks = preflight(base.model, images, labels, randomised=base.randomised, batch_size=MOST_IMAGES)
    results = evaluate_curve(
        base.model,
        images,
        labels,
        config.threat.threat(),
        radii,
        base.attacks[0],
        journal=journal,
        on_progress=on_progress,
        seed=config.seed,
        batch_size=config.batch_size,
        search_precision=config.search_precision,
        compiled=config.compiled,
    )
    outcomes = []
    for job, result in zip(jobs, results, strict=True):
        verdicts = verdict_bytes(result.verdicts())
        record = _record(job, result, checks + _candidates_in_ball(result), verdicts, device)
        store.save(record, verdicts)
        outcomes.append(Outcome(record, reused=False))
    journal.delete()
    return outcomes


def _at_radius(job: _Job, eps: Fraction, radii: tuple[Fraction, ...]) -> _Job:
    config = job.config.model_copy(update={"threat": ThreatConfig(norm=job.config.threat.norm, eps=eps)})
    protocol = protocol_of(job.attacks, config.threat.threat(), num_classes=job.model.num_classes)
    for part in protocol:
        part.update(_shortcuts(config) | {"eps_grid": grid_text(radii)})
    return replace(job, config=config, protocol=protocol)


def _prepare(
    config: EvalConfig, run: Run, *, weights: WeightsName | None, device: torch.device, data_dir: Path
) -> _Job:
    threat = config.threat.threat()
    attacks = [parse_attack(spec) for spec in config.attacks]
    refuse_duplicates(attacks)
    variants = [attack.reference(threat) for attack in attacks] if config.engine == "reference" else attacks
    which = run.choose(weights)
    model = run.load_model(which, device=device)
    samples = load_samples(config, run, model, data_dir=data_dir)
    protocol = protocol_of(variants, threat, num_classes=model.num_classes)
    for part in protocol:
        part.update(_shortcuts(config))
    return _Job(config, run, which, model, samples, attacks, protocol, weights_sha256(model))


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


def _record(job: _Job, result: Evaluation, checks: Sequence[Check], verdicts: bytes, device: torch.device) -> Record:
    config, saved = job.config, job.run.config()
    threat = config.threat.threat()
    return Record(
        id=job.id,
        created=now(),
        model=ModelInfo(
            name=job.run.name,
            arch=saved.arch,
            loss=saved.train.loss if saved.train is not None else None,
            params=sum(parameter.numel() for parameter in job.model.parameters()),
            weights=job.weights,
            weights_sha256=job.weights_sha256,
            train_config=saved.train.model_dump(mode="json") if saved.train is not None else None,
        ),
        data=DataInfo(
            dataset=config.dataset,
            split=config.split,
            n=len(job.samples),
            sha256=job.samples.sha256,
            index_ranges=_ranges(torch.arange(len(job.samples))),
        ),
        threat=ThreatInfo(norm=threat.norm, eps=format_fraction(threat.eps)),
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
        environment=environment(device),
        verdicts_sha256=hashlib.sha256(verdicts).hexdigest(),
        standing=pack_standing(result.standing),
    )


def _adversarial_bytes(result: Evaluation, images: Tensor, count: int) -> bytes:
    """Return an npz of the first ``count`` broken samples: ``index``, ``images`` float32 in [0, 1], ``original``."""
    broken = np.flatnonzero(~result.standing & (result.clean_pred == result.label))
    rows = broken[:count] if result.adversarial is not None else broken[:0]
    found = images[:0].float() if result.adversarial is None else result.adversarial[rows]
    buffer = io.BytesIO()
    np.savez(buffer, index=result.index[rows], images=found.numpy(), original=images[rows].cpu().numpy())
    return buffer.getvalue()


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
