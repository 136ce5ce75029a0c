"""RobustBench's published figures, as data: what others measured, never mixed with our records. Imports no torch."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources

from robustbench_gkl.core.exact import Norm, parse_fraction

_NORMS: dict[str, Norm] = {"Linf": "linf", "L2": "l2"}


@dataclass(frozen=True)
class PublishedModel:
    """One published row. Accuracies are in percent, as published; None where there is none."""

    dataset: str
    norm: Norm | None
    """None for the models of the corruptions board."""
    eps: Fraction | None
    """Radius in the [0, 1] image scale, as published: 0.031 is not 8/255."""
    name: str
    """As in ``robustbench:NAME``."""
    architecture: str
    clean: float | None
    autoattack: float | None
    external: float | None
    """Accuracy under the best evaluation known, where one beyond AutoAttack was published."""
    reported: float | None
    """By the model's authors."""
    corruptions: float | None
    additional_data: bool
    unreliable: bool | None
    """Whether RobustBench flags its AutoAttack figure as possibly too high; None where it says nothing."""
    venue: str
    link: str

    @property
    def best_known(self) -> float | None:
        """The lower of AutoAttack's and the external figure."""
        known = [figure for figure in (self.autoattack, self.external) if figure is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class PublishedSource:
    """Where the rows are from."""

    source: str
    commit: str
    date: str
    license: str


def published_source() -> PublishedSource:
    """Return the repository, commit and date that :func:`published_models` was taken from."""
    return PublishedSource(**json.loads(_text("robustbench_models.json")))


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """Return RobustBench's published rows, in the order of its leaderboards: by data set, threat and accuracy."""
    return tuple(_row(row) for row in csv.DictReader(_text("robustbench_models.csv").splitlines()))


def _text(name: str) -> str:
    return (resources.files("robustbench_gkl.results") / name).read_text(encoding="utf-8")


def _row(row: dict[str, str]) -> PublishedModel:
    norm = _NORMS.get(row["threat"])
    return PublishedModel(
        dataset=row["dataset"],
        norm=norm,
        eps=parse_fraction(row["eps"]) if norm else None,
        name=row["name"],
        architecture=row["architecture"],
        clean=_percent(row["clean_acc"]),
        autoattack=_percent(row["autoattack_acc"]),
        external=_percent(row["external"]),
        reported=_percent(row["reported"]),
        corruptions=_percent(row["corruptions_acc"]),
        additional_data=row["additional_data"] == "true",
        unreliable=row["unreliable"] == "true" if row["unreliable"] else None,
        venue=row["venue"],
        link=row["link"],
    )


def _percent(text: str) -> float | None:
    return float(text) if text else None
