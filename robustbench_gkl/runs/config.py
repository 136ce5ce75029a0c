"""``config.json``: what a run is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from robustbench_gkl.config.former import with_todays_meaning
from robustbench_gkl.config.schema import TrainConfig


class RunConfig(BaseModel):
    """``config.json``: what is needed to build the model and to train it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str
    arch: str
    num_classes: int
    input_shape: tuple[int, int, int]
    dataset: str
    train: TrainConfig | None = None
    """None for imported models."""
    source: dict[str, str] | None = None
    """Where an imported model came from."""
    created: str
    environment: dict[str, str]

    @field_validator("train", mode="before")
    @classmethod
    def _former_meaning(cls, train: Any) -> Any:
        return with_todays_meaning(train) if isinstance(train, Mapping) else train


def now() -> str:
    """Return the time in UTC, ISO 8601 to the microsecond."""
    return datetime.now(timezone.utc).isoformat()
