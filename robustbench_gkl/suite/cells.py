"""The cells of a suite: one training or one evaluation of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.config.schema import EvalConfig, ModelOptions, TrainConfig
from robustbench_gkl.models.external import ExternalSource, parse_model
from robustbench_gkl.results.record import canonical_hash
from robustbench_gkl.runs import ORIGINS


def training_content(config: TrainConfig) -> dict[str, Any]:
    """Return what decides the weights: all settings but the name of the recipe that they came from."""
    content = config.model_dump(mode="json", exclude={"recipe"})
    absent = {role for role in ORIGINS if content[role] is None}  # as in suites of before
    return {key: value for key, value in content.items() if key not in absent}


@dataclass(frozen=True)
class TrainCell:
    """A run to be trained.

    Attributes:
        run: its name.
        config: the resolved recipe.
        after: the cells that train its teacher and what it starts from.
    """

    kind: ClassVar[str] = "train"

    run: str
    config: TrainConfig
    after: tuple[TrainCell, ...] = ()

    @cached_property
    def key(self) -> str:
        """A hash of the cell's content: another recipe, its own or its teacher's, makes another cell."""
        return canonical_hash([self.kind, self.run, training_content(self.config), *self.needs])[:16]

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of the cells that must be done before."""
        return tuple(cell.key for cell in self.after)

    def __str__(self) -> str:
        return f"{self.kind} {self.run}"


@dataclass(frozen=True)
class EvalCell:
    """An evaluation of a run, or of another model.

    Attributes:
        run: its name, or the MODEL argument of a model that is there already.
        config: what is measured.
        weights: which of the run's weights; None for the preferred ones.
        train: the cell that trains the run; None for one that is there already.
        name: the model's name on the board; None for its own.
        options: what is done to images in front of a model from outside.
    """

    kind: ClassVar[str] = "eval"

    run: str
    config: EvalConfig
    weights: WeightsName | None = None
    train: TrainCell | None = None
    name: str | None = None
    options: ModelOptions = field(default_factory=ModelOptions)

    @cached_property
    def outside(self) -> ExternalSource | None:
        """The model from outside that is evaluated; None for a run."""
        return None if self.train is not None else parse_model(self.run)

    @cached_property
    def key(self) -> str:
        """A hash of the cell's content, that of its training included; our engine's batch size decides nothing."""
        measured = self.config.model_dump(mode="json", exclude={"eps_grid", "batch_size"})
        if self.config.engine == "reference":
            measured["batch_size"] = self.config.batch_size
        beside = [self.name, self.options.given()] if self.name is not None or self.options.given() else []
        trained = None if self.train is None else self.train.key
        return canonical_hash([self.kind, self.run, self.weights, measured, trained, *beside])[:16]

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of the cells that must be done before."""
        return () if self.train is None else (self.train.key,)

    def __str__(self) -> str:
        config = self.config
        images = "all" if config.n is None else f"{config.n:,}"
        return f"{self.kind} {self.name or self.run} {' '.join(config.attacks)}, {config.threat}, {images} images"


Cell = TrainCell | EvalCell
