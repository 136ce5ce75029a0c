"""What an evaluation is about: a configuration with its model and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch

from robustbench_gkl.attacks import AttackSpec, attacks_to_run, protocol_of
from robustbench_gkl.config.names import WeightsName, check_name
from robustbench_gkl.config.schema import EvalConfig, ThreatConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import format_fraction
from robustbench_gkl.data import ImageSet, load_dataset
from robustbench_gkl.evaluation.eps_grid import grid_text
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.models import Classifier
from robustbench_gkl.results.record import (
    first_record_id,
    model_sha256,
    record_id,
)
from robustbench_gkl.runs import Run, RunConfig, weights_sha256


class _Question(TypedDict):
    """What an id is made of, but for the model."""

    name: str
    data_sha256: str
    threat: str
    protocol: list[dict[str, Any]]
    engine: str
    seed: int


@dataclass(frozen=True)
class Job:
    """What an evaluation is about, and the name under which its record is kept."""

    config: EvalConfig
    run: Run
    saved: RunConfig
    """The run as it was when its weights were read."""
    name: str
    """The model's name in the record: the run's, or another that was asked for."""
    weights: WeightsName
    model: Classifier
    samples: ImageSet
    attacks: Sequence[tuple[AttackSpec, AttackSpec]]
    """Each attack, and what runs of it: itself or its published implementation."""
    protocol: list[dict[str, Any]]
    weights_sha256: str
    device: torch.device

    @cached_property
    def model_sha256(self) -> str:
        """The model's identity: hash of its weights and its function."""
        return model_sha256(weights_sha256=self.weights_sha256, arch=self.saved.arch)

    @cached_property
    def id(self) -> str:
        """The id of the record."""
        size = 0 if self.config.batch_size == "auto" else self.config.batch_size
        return record_id(model_sha256=self.model_sha256, batch_size=size, **self._question())

    @cached_property
    def first_id(self) -> str:
        """The id that version 1 of the records gave to this evaluation."""
        return first_record_id(weights_sha256=self.weights_sha256, **self._question())

    def _question(self) -> _Question:
        return {
            "name": self.name,
            "data_sha256": self.samples.sha256,
            "threat": f"{self.config.threat.norm} {format_fraction(self.config.threat.eps)}",
            "protocol": self.protocol,
            "engine": self.config.engine,
            "seed": self.config.seed,
        }

    def at_radius(self, eps: Fraction, radii: Sequence[Fraction]) -> Job:
        """Return the same job at one of the radii that are measured together."""
        threat = ThreatConfig(norm=self.config.threat.norm, eps=eps)
        config = self.config.model_copy(update={"threat": threat, "eps_grid": tuple(radii)})
        protocol = _protocol([variant for _, variant in self.attacks], config, self.model)
        for part in protocol:
            part["eps_grid"] = grid_text(radii)
        return replace(self, config=config, protocol=protocol)

    @property
    def randomised(self) -> bool:
        """Whether the attacks average over a model's random answers."""
        threat, classes = self.config.threat, self.model.num_classes
        return any(stage.averages for attack, _ in self.attacks for stage in attack.stages(threat, num_classes=classes))


def prepare(
    config: EvalConfig,
    run: Run,
    workspace: Workspace,
    *,
    name: str | None = None,
    weights: WeightsName | None = None,
) -> Job:
    """Load what ``config`` needs; on each machine one of the ranks fetches the data for all.

    Args:
        config: what to measure.
        run: the model.
        workspace: where.
        name: the model's name in the record; None for the run's.
        weights: which of the run's weights; None for the preferred ones.

    Raises:
        UserError: unknown attacks, or a run or data that cannot be used.
    """
    attacks = attacks_to_run(config.attacks, config.threat, reference=config.engine == "reference")
    which = run.choose(weights)
    saved, model = run.load_whole(which, device=workspace.device)
    samples = workspace.exchange.one_first(lambda: load_samples(config, run, model, data_dir=workspace.data_dir))
    protocol = _protocol([variant for _, variant in attacks], config, model)
    return Job(
        config=config,
        run=run,
        saved=saved,
        name=run.name if name is None else check_name(name),
        weights=which,
        model=model,
        samples=samples,
        attacks=attacks,
        protocol=protocol,
        weights_sha256=weights_sha256(model),
        device=workspace.device,
    )


def _protocol(attacks: Sequence[AttackSpec], config: EvalConfig, model: Classifier) -> list[dict[str, Any]]:
    """Return the protocol; search precision and compilation are in it where they are not the default."""
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


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
