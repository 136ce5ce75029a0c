"""What an evaluation is about: a configuration with its model and samples, and the record made of an outcome."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
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
from robustbench_gkl.evaluation.curve import grid_text
from robustbench_gkl.evaluation.engine import refuse_duplicates
from robustbench_gkl.evaluation.outcome import Evaluation
from robustbench_gkl.exact import format_fraction
from robustbench_gkl.exchange import Exchange
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
from robustbench_gkl.runs import Run, now, weights_sha256
from robustbench_gkl.settings import WeightsName


@dataclass(frozen=True)
class Job:
    """What an evaluation is about, and the name under which its record is kept."""

    config: EvalConfig
    run: Run
    weights: WeightsName
    model: Classifier
    samples: ImageSet
    attacks: Sequence[Attack]
    protocol: list[dict[str, Any]]
    weights_sha256: str
    device: torch.device

    @property
    def id(self) -> str:
        """The id of the record."""
        return record_id(
            name=self.run.name,
            weights_sha256=self.weights_sha256,
            data_sha256=self.samples.sha256,
            threat=str(self.config.threat.threat()),
            protocol=self.protocol,
            engine=self.config.engine,
            seed=self.config.seed,
        )

    def at_radius(self, eps: Fraction, radii: Sequence[Fraction]) -> Job:
        """Return the same job at one of the radii that are measured together."""
        config = self.config.model_copy(update={"threat": ThreatConfig(norm=self.config.threat.norm, eps=eps)})
        protocol = _protocol(self.attacks, config, self.model)
        for part in protocol:
            part["eps_grid"] = grid_text(radii)
        return replace(self, config=config, protocol=protocol)

    @property
    def randomised(self) -> bool:
        """Whether the attacks average over a model's random answers."""
        return any(getattr(attack, "version", None) == "rand" for attack in self.attacks)


def prepare(
    config: EvalConfig,
    run: Run,
    *,
    weights: WeightsName | None,
    device: torch.device,
    data_dir: Path,
    exchange: Exchange | None = None,
) -> Job:
    """Load what ``config`` needs; on each machine one of the ranks of ``exchange`` fetches the data for all.

    Raises:
        UserError: unknown attacks, or a run or data that cannot be used.
    """
    threat = config.threat.threat()
    attacks = [parse_attack(spec) for spec in config.attacks]
    refuse_duplicates(attacks)
    variants = [attack.reference(threat) for attack in attacks] if config.engine == "reference" else attacks
    which = run.choose(weights)
    model = run.load_model(which, device=device)
    exchange = exchange or Exchange()
    samples = exchange.one_first(lambda: load_samples(config, run, model, data_dir=data_dir))
    protocol = _protocol(variants, config, model)
    return Job(config, run, which, model, samples, attacks, protocol, weights_sha256(model), device)


def _protocol(attacks: Sequence[Attack], config: EvalConfig, model: Classifier) -> list[dict[str, Any]]:
    """Return what is measured; of cheaper searching it says nothing by default."""
    protocol = protocol_of(attacks, config.threat.threat(), num_classes=model.num_classes)
    for part in protocol:
        if config.search_precision != "float32":
            part["search_precision"] = config.search_precision
        if config.compiled:
            part["compiled"] = True
    return protocol


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


def make_record(
    job: Job, result: Evaluation, checks: Sequence[Check], verdicts: bytes, *, processes: int = 1
) -> Record:
    """Return the record of an outcome whose verdicts are ``verdicts`` (parquet), found by so many processes."""
    where = environment(job.device) | ({"processes": str(processes)} if processes > 1 else {})
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
        environment=where,
        verdicts_sha256=hashlib.sha256(verdicts).hexdigest(),
        standing=pack_standing(result.standing),
    )


def adversarial_bytes(result: Evaluation, images: Tensor, count: int) -> bytes:
    """Return an npz of the first ``count`` broken samples: ``index``, ``images`` float32 in [0, 1], ``original``."""
    broken = np.flatnonzero(~result.standing & (result.clean_pred == result.label))
    rows = broken[:count] if result.adversarial is not None else broken[:0]
    found = images[:0].float() if result.adversarial is None else result.adversarial[rows]
    buffer = io.BytesIO()
    np.savez(buffer, index=result.index[rows], images=found.numpy(), original=images[rows].cpu().numpy())
    return buffer.getvalue()


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _ranges(index: Tensor) -> tuple[tuple[int, int], ...]:
    """Return sorted indices as half-open ranges."""
    breaks = (index.diff() != 1).nonzero().flatten() + 1
    parts = torch.tensor_split(index, breaks.tolist())
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


def candidates_in_ball(result: Evaluation) -> list[Check]:
    """Return what is to be said of candidates that the engine refused."""
    rejected = sum(stage.rejected for attack in result.attacks for stage in attack.stages)
    return [
        Check(
            name="candidates-in-ball",
            verdict="WARN" if rejected else "PASS",
            figure=f"{rejected} rejected",
            advice="An attack left the threat model; its images were not counted." if rejected else "",
        )
    ]
