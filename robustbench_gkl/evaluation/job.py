"""What an evaluation is about: a configuration with its model and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustbench_gkl.attacks import AttackSpec, attacks_to_run
from robustbench_gkl.attacks.images import check_submitted
from robustbench_gkl.attacks.specs.images import SubmittedImages
from robustbench_gkl.config.names import check_name
from robustbench_gkl.config.schema import EvalConfig, ThreatConfig
from robustbench_gkl.core.declared import no_plugins
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import ImageSet, load_dataset
from robustbench_gkl.data.source_files import images_key, keep_images_sha256
from robustbench_gkl.evaluation.effort import Effort
from robustbench_gkl.evaluation.eps_grid import grid_text
from robustbench_gkl.evaluation.question import Question, id_of, protocol_under, question_of
from robustbench_gkl.evaluation.workspace import Workspace
from robustbench_gkl.models import Classifier
from robustbench_gkl.results.record import first_record_id
from robustbench_gkl.sources.source import ModelSource
from robustbench_gkl.sources.subject import Subject, check_fits


@dataclass(frozen=True)
class Job:
    """What an evaluation is about, and the name under which its record is kept."""

    config: EvalConfig
    source: ModelSource
    subject: Subject
    name: str
    """The model's name in the record: the source's, or another that was asked for."""
    samples: ImageSet
    attacks: Sequence[tuple[AttackSpec, AttackSpec]]
    """Each attack, and what runs of it: itself or its published implementation."""
    protocol: list[dict[str, Any]]
    device: torch.device
    index: Tensor | None = None
    """(N,) the samples' indices in the split; None for its first N."""
    effort: Effort | None = None
    """How far samples are certified; None for not at all. No part of the id: no verdict depends on it."""

    @property
    def model(self) -> Classifier:
        """The model, in eval mode on its device."""
        return self.subject.model

    @cached_property
    def model_sha256(self) -> str:
        """The model's identity: hash of its weights and its function."""
        return self.subject.model_sha256

    @cached_property
    def id(self) -> str:
        """The id of the record."""
        return id_of(self.config, self._question(), model_sha256=self.model_sha256)

    @cached_property
    def first_id(self) -> str:
        """The id that version 1 of the records gave to this evaluation."""
        return first_record_id(weights_sha256=self.subject.weights_sha256, **self._question())

    def _question(self) -> Question:
        protocol = self.protocol if self.index is None else [*self.protocol, {"index": self.index.tolist()}]
        return question_of(self.config, name=self.name, data_sha256=self.samples.sha256, protocol=protocol)

    def at_radius(self, eps: Fraction, radii: Sequence[Fraction]) -> Job:
        """Return the same job at one of the radii that are measured together."""
        threat = ThreatConfig(norm=self.config.threat.norm, eps=eps)
        config = self.config.model_copy(update={"threat": threat, "eps_grid": tuple(radii)})
        protocol = protocol_under([variant for _, variant in self.attacks], config, num_classes=self.model.num_classes)
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
    source: ModelSource,
    workspace: Workspace,
    *,
    name: str | None = None,
    effort: Effort | None = None,
) -> Job:
    """Load what ``config`` needs; on each machine one of the ranks fetches the data for all.

    Args:
        config: what to measure.
        source: the model.
        workspace: where.
        name: the model's name in the record; None for the source's.
        effort: how far samples are certified; None for not at all.

    Raises:
        UserError: unknown attacks, a model or data that cannot be used, or ranks that have others than rank 0.
    """
    attacks_to_run(config.attacks, config.threat, reference=config.engine == "reference")  # a typo waits for no model
    subject, samples = workspace.exchange.one_first(
        lambda: load_subject(config, source, device=workspace.device, data_dir=workspace.data_dir)
    )
    job = job_of(config, source, subject, samples, workspace, name=name, effort=effort)
    _same_on_all(workspace.exchange.gather(job.id))
    return job


def _same_on_all(ids: Sequence[str]) -> None:
    """Check that the ranks, whose jobs have these ``ids``, are about to evaluate the same.

    Raises:
        UserError: one is not.
    """
    for rank, own in enumerate(ids):
        if own != ids[0]:
            raise UserError(
                f"rank {rank} has another model, images or options than rank 0 ({own}, not {ids[0]}); give all ranks "
                f"the same files and options, and evaluate a run when its training is over"
            )


def job_of(
    config: EvalConfig,
    source: ModelSource,
    subject: Subject,
    samples: ImageSet,
    workspace: Workspace,
    *,
    name: str | None = None,
    index: Tensor | None = None,
    effort: Effort | None = None,
) -> Job:
    """Return the job of a model and images that are loaded.

    Args:
        config: what to measure.
        source, subject: the model.
        samples: the images.
        workspace: where.
        name: the model's name in the record; None for the source's.
        index: (N,) the samples' indices in the split; None for its first N.
        effort: how far samples are certified; None for not at all.

    Raises:
        UserError: unknown attacks, submitted images that cannot be used, or a name that no model can have.
    """
    attacks = attacks_to_run(config.attacks, config.threat, reference=config.engine == "reference")
    for attack, _ in attacks:
        if isinstance(attack, SubmittedImages):
            check_submitted(attack, samples.images)  # whether or not a sample comes to it
    return Job(
        config=config,
        source=source,
        subject=subject,
        name=check_name(source.name if name is None else name),
        samples=samples,
        attacks=attacks,
        protocol=protocol_under([variant for _, variant in attacks], config, num_classes=subject.model.num_classes),
        device=workspace.device,
        index=index,
        effort=effort,
    )


def load_subject(
    config: EvalConfig, source: ModelSource, *, device: torch.device, data_dir: Path
) -> tuple[Subject, ImageSet]:
    """Return the model on ``device``, and the images that ``config`` names.

    Raises:
        UserError: a model or data that cannot be used; fewer images than asked for; a model for images of another size
            or for other classes.
    """
    key = images_key(config.dataset, config.split, config.n, data_dir)
    dataset = source.fitted(load_dataset(config.dataset, data_dir=data_dir))
    subject = source.load(dataset, device=device)
    images = dataset.load(config.split)
    if config.n is not None:
        if config.n > len(images):
            raise UserError(f"--n is {config.n}, but {config.dataset} has {len(images)} {config.split} images")
        images = images.take(torch.arange(config.n))
    check_fits(subject.model, source.label, shape=images.shape, classes=len(images.classes), dataset=config.dataset)
    ours = subject.run is not None and no_plugins() and type(dataset).__module__.startswith("robustbench_gkl.")
    if ours and key is not None and key == images_key(config.dataset, config.split, config.n, data_dir):
        keep_images_sha256(key, images.sha256)  # no file has changed meanwhile
    return subject, images
