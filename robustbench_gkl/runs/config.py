"""``config.json``: what a run is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from robustbench_gkl.config.former import with_todays_meaning
from robustbench_gkl.config.schema import TrainConfig


class DataHashes(BaseModel):
    """The data that a run was started with, as hashes (SHA-256).

    Attributes:
        train: of shape, pixels and labels of the real images that are trained on.
        validation: of those held out; None if there are none.
        synthetic: of each file of generated images, by the path in ``train.synthetic.files``; of a folder the hashes of
            its files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str
    validation: str | None = None
    synthetic: dict[str, tuple[str, ...]] = {}

    def changed_from(self, before: DataHashes) -> list[str]:
        """Return what is not as it was, in words."""
        found = []
        if self.train != before.train:
            found.append("its training images")
        if self.validation != before.validation:
            found.append("its validation images")
        paths = self.synthetic | before.synthetic
        found += [f"the generated images in {path}" for path in paths if self._of(path) != before._of(path)]
        return found

    def _of(self, path: str) -> tuple[str, ...] | None:
        return self.synthetic.get(path)


class Origin(BaseModel):
    """A model that a run was made with, as it was then.

    Attributes:
        name: as records name it.
        model_sha256: the hash of its weights and function.
        source: where a model from outside comes from, with hashes of its files; None for a run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model_sha256: str
    source: dict[str, Any] | None = None


ORIGINS = ("teacher", "init")
"""The keys of a recipe that name a model, whose :class:`Origin` ``config.json`` has under the same key."""


class RunConfig(BaseModel):
    """``config.json``: what is needed to build the model and to train it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    """The version of this file's layout."""
    name: str
    """The run's name when it was made."""
    arch: str
    """The architecture with its options, from ``gklbench list models``."""
    num_classes: int
    """Logits of the model."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of its images."""
    dataset: str
    """What it was trained on, or imported for: a name from ``gklbench list datasets``."""
    train: TrainConfig | None = None
    """None for imported models."""
    data: DataHashes | None = None
    """None for imported models, and for runs that earlier versions started."""
    teacher: Origin | None = None
    """The model that ``train.teacher`` names."""
    init: Origin | None = None
    """The model that ``train.init`` names."""
    source: dict[str, str] | None = None
    """Where an imported model came from."""
    created: str
    """When the run was begun or imported: UTC, ISO 8601."""
    environment: dict[str, str]
    """Versions, device, threads and git commit at that time, and how many processes trained it if several."""
    plugins: dict[str, str] = {}
    """Argument and hash of each plugin that it was made with, see :mod:`robustbench_gkl.core.plugins`."""

    @field_validator("train", mode="before")
    @classmethod
    def _former_meaning(cls, train: Any) -> Any:
        return with_todays_meaning(train) if isinstance(train, Mapping) else train


def now() -> str:
    """Return the time in UTC, ISO 8601 to the microsecond."""
    return datetime.now(timezone.utc).isoformat()
