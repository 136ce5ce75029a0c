"""The models that MODEL arguments name: found without torch, which is imported where one is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.config.options import Native
from robustbench_gkl.config.schema import ModelOptions, ThreatConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.importing import working_in
from robustbench_gkl.core.validation import validated
from robustbench_gkl.data.resizing import INTERPOLATIONS, UNCHANGED, Fit, Interpolation
from robustbench_gkl.models.external import ExternalSource, parse_model
from robustbench_gkl.results.record import model_sha256
from robustbench_gkl.runs import Origin, Run, find_run, look_for, weights_sha256
from robustbench_gkl.sources.subject import Subject

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.data import Dataset


class ModelSource(Protocol):
    """A model that is not loaded yet."""

    @property
    def name(self) -> str:
        """The name under which it is recorded where no other is asked for."""
        ...

    @property
    def label(self) -> str:
        """The words for it in an error."""
        ...

    def native(self) -> Native:
        """Return what the model was made for.

        Raises:
            UserError: the model is not there.
        """
        ...

    def reference(self) -> dict[str, Any]:
        """Return as plain data what is needed to find the model again."""
        ...

    def fitted(self, dataset: Dataset) -> Dataset:
        """Return ``dataset`` with its images brought to the size that the model takes."""
        ...

    def load(self, dataset: Dataset, *, device: torch.device) -> Subject:
        """Return the model for the classes and image size of ``dataset``.

        Raises:
            UserError: the model or its weights cannot be used, or do not fit the data set.
        """
        ...


@dataclass(frozen=True)
class RunSource:
    """One of a run's weights.

    Attributes:
        run: the run.
        weights: which of its weights; None for the preferred ones.
    """

    run: Run
    weights: WeightsName | None = None

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def label(self) -> str:
        """``run NAME``."""
        return f"run {self.run.name}"

    def native(self) -> Native:
        """Return the run's data set, and the threat that it was trained for."""
        config = self.run.config()
        return Native(config.dataset, None if config.train is None else config.train.threat)

    def reference(self) -> dict[str, Any]:
        """Return the run's folder, and which weights."""
        return {"model": str(self.run.folder.resolve()), "weights": self.run.choose(self.weights)}

    def fitted(self, dataset: Dataset) -> Dataset:
        """Return ``dataset`` as it is."""
        return dataset

    def load(self, dataset: Dataset, *, device: torch.device) -> Subject:
        """Return the run's model; whether it fits the data set is looked at with the images."""
        which = self.run.choose(self.weights)
        saved, model = self.run.load_whole(which, device=device)
        return Subject(
            model=model,
            arch=saved.arch,
            weights_sha256=weights_sha256(model),
            run=self.run.name,
            weights=which,
            train=saved.train,
            teacher=saved.teacher,
            init=saved.init,
        )


@dataclass(frozen=True)
class OutsideSource:
    """A model from outside, with the options that belong to it.

    Attributes:
        outside: where it comes from.
        options: what is done to images in front of it.
        folder: the folder that relative paths of the argument and of the user's code start from.
    """

    outside: ExternalSource
    options: ModelOptions
    folder: Path = field(default_factory=Path.cwd)

    @property
    def name(self) -> str:
        """A run's name made of the MODEL argument."""
        return self.outside.name

    @property
    def label(self) -> str:
        """The MODEL argument."""
        return self.outside.argument

    def native(self) -> Native:
        """Return the data set and threat in the model's own package."""
        facts = self.outside.facts()
        known = facts.norm is not None and facts.eps is not None
        return Native(facts.dataset, ThreatConfig(norm=facts.norm, eps=facts.eps) if known else None)

    def reference(self) -> dict[str, Any]:
        """Return the MODEL argument, the folder that it starts from, and the options."""
        return {"model": self.outside.argument, "folder": str(self.folder), **self.options.given()}

    def fitted(self, dataset: Dataset) -> Dataset:
        """Return ``dataset`` with its images resized and cropped."""
        from robustbench_gkl.data.resized import resized

        return resized(dataset, self._fit(dataset))

    def _fit(self, dataset: Dataset) -> Fit:
        """Return how images are brought to size: as asked for, else as the model's package does it to photographs.

        A package's own resizing is meant for images of any size, so images of one size that fit are left alone.
        """
        if self.options.resize is not None or self.options.crop is not None:
            return Fit(self.options.resize, self.options.crop)
        facts = self.outside.facts()
        if (
            (facts.resize is None and facts.crop is None)
            or facts.input_shape is None
            or dataset.shape == facts.input_shape
        ):
            return UNCHANGED
        interpolation: Interpolation = next(
            (known for known in INTERPOLATIONS if known == facts.interpolation), "bilinear"
        )
        return Fit(facts.resize, facts.crop, interpolation)

    def load(self, dataset: Dataset, *, device: torch.device) -> Subject:
        """Return the model for the classes and image size of ``dataset``."""
        from robustbench_gkl.data.resized import fit_of

        with working_in(self.folder):
            model = self.outside.load(
                num_classes=len(dataset.classes),
                input_shape=dataset.shape,
                mean=self.options.mean,
                std=self.options.std,
                device=device,
            )
            identity = self.outside.identity()
        return Subject(
            model=model,
            arch=self.outside.arch,
            weights_sha256=weights_sha256(model),
            code_sha256=identity.get("code_sha256"),
            source={**identity, **self.options.given()},
            fit=fit_of(dataset),
        )


def find_source(
    model: str,
    *,
    checkpoints_dir: Path,
    weights: WeightsName | None = None,
    options: ModelOptions,
    dataset: str | None = None,
    norm: str | None = None,
) -> ModelSource:
    """Return the model that a MODEL argument names; the plugins that a run was made with are loaded.

    Args:
        model: a run's name or folder, or one of :data:`robustbench_gkl.models.external.FORMS`.
        checkpoints_dir: where runs are kept.
        weights: which of a run's weights.
        options: what is done to images in front of a model from outside.
        dataset, norm: those that were asked for, which choose where a package has several models of a name.

    Raises:
        UserError: no such model, options that do not belong to its kind, or a plugin that is gone or has changed.
    """
    outside = parse_model(model)
    if outside is None:
        run = find_run(model, checkpoints_dir=checkpoints_dir)
        if given := options.given():
            named = ", ".join(f"--{key}" for key in given)
            raise UserError(f"{named}: run {run.name} has its preprocessing inside; leave them out")
        run.load_plugins()
        return RunSource(run, weights)
    if weights is not None:
        raise UserError(f"--weights {weights} chooses among the weights of a run, and {model} is none")
    return OutsideSource(outside.within(dataset=dataset, norm=norm), options)


def has_changed(origin: Origin, argument: str, *, checkpoints_dir: Path) -> bool:
    """Return whether a MODEL argument names another model than it did, judged without torch.

    A model that is not there any more has not changed. One from outside is judged by the hashes of its files.

    Args:
        origin: what it was.
        argument: MODEL.
        checkpoints_dir: where runs are kept.

    Raises:
        UserError: a file or package of a model from outside is gone.
    """
    outside = parse_model(argument)
    if outside is not None:
        was = origin.source or {}
        hashes = {key: value for key, value in outside.identity().items() if key.endswith("_sha256")}
        return any(was.get(key) != value for key, value in hashes.items())
    run = look_for(argument, checkpoints_dir=checkpoints_dir)
    if not run.exists() or not run.available():
        return False
    return origin.model_sha256 != model_sha256(weights_sha256=run.weights_sha256(), arch=run.config().arch)


def source_again(reference: Mapping[str, Any], checkpoints_dir: Path) -> ModelSource:
    """Return the model of a :meth:`ModelSource.reference`.

    A run is looked for by its name among the runs here, else in the folder where it was; a model from outside from the
    working directory that it was found from, or from ours where there is no such folder. The plugins that a run was
    made with are loaded.

    Raises:
        UserError: it, or a plugin of its, is not there any more.
    """
    start = Path(reference.get("folder", ""))
    start = start if start.is_dir() else Path.cwd()
    with working_in(start):
        outside = parse_model(reference["model"])
    if outside is not None:
        options = {key: value for key, value in reference.items() if key not in ("model", "folder")}
        return OutsideSource(
            outside, validated(ModelOptions, options, what=f"model {outside.argument}"), start.absolute()
        )
    folder = Path(reference["model"])
    named = look_for(folder.name, checkpoints_dir=checkpoints_dir)
    run = named if named.exists() else find_run(str(folder), checkpoints_dir=checkpoints_dir)
    run.load_plugins()
    return RunSource(run, reference["weights"])
