"""The content of the pages, gathered from records, verdicts and run folders."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import parse_fraction
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.results.statistics import wilson_interval
from robustbench_gkl.results.tiers import CLEAN, UNRANKED, answers_at_random, record_tier


@dataclass(frozen=True)
class Setting:
    """The values that must agree for records to be shown in one picture."""

    dataset: str
    split: str
    data_sha256: str
    n: int
    norm: str
    attacks: tuple[str, ...]
    eps: str | None = None
    """None where a picture runs over radii."""

    @property
    def attacks_label(self) -> str:
        """The attacks as a menu names them."""
        return " + ".join(self.attacks)

    @property
    def place(self) -> tuple[object, ...]:
        """What settings are sorted by: data, threat by the size of its radius, more attacks first."""
        eps = parse_fraction(self.eps or 0)
        return (self.dataset, self.split, self.norm, eps, -len(self.attacks), self.attacks, -self.n, self.data_sha256)


def setting_of(record: Record, *, over_radii: bool = False) -> Setting:
    """Return the setting that a record was made in."""
    return Setting(
        dataset=record.data.dataset,
        split=record.data.split,
        data_sha256=record.data.sha256,
        n=record.data.n,
        norm=record.threat.norm,
        attacks=tuple(attack.label for attack in record.attacks),
        eps=None if over_radii else record.threat.eps,
    )


def by_setting(records: Iterable[Record]) -> dict[Setting, list[Record]]:
    """Return the newest record of each model in each setting, the setting of most models first, best model first."""
    found: dict[Setting, dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.created):
        found[setting_of(record)][record.model.name] = record
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0].place))
    return {
        setting: sorted(models.values(), key=lambda record: (-record.worst_case_acc, record.model.name))
        for setting, models in ordered
    }


def headline(records: Sequence[Record]) -> Record:
    """Return the record that a model is shown by.

    It is that of the strongest tier, clean accuracy alone last; among such, of the threat trained for, of most
    samples, the newest.
    """
    randomised = any(map(answers_at_random, records))

    def weight(record: Record) -> tuple[int, bool, int, str]:
        trained_for = (record.model.train_config or {}).get("threat", {})
        fits = (trained_for.get("norm"), trained_for.get("eps")) == (record.threat.norm, record.threat.eps)
        tier = record_tier(record, randomised=randomised)
        strength = -UNRANKED.place if tier is None or tier == CLEAN else -tier.place
        return strength, fits, record.data.n, record.created

    return max(records, key=weight)


@dataclass(frozen=True)
class Point:
    """An accuracy in percent with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, successes: int, n: int) -> Point:
        """Return the share of ``successes`` among ``n``."""
        low, high = wilson_interval(successes, n)
        return cls(100 * successes / n, 100 * low, 100 * high)

    @classmethod
    def of_percentage(cls, accuracy: float, n: int) -> Point:
        """Return an accuracy in percent, measured on ``n`` samples."""
        return cls.of(min(n, max(0, round(accuracy * n / 100))), n)


@dataclass(frozen=True)
class Radii:
    """Accuracies of one model at several radii."""

    model: str
    eps: tuple[Fraction, ...]
    points: tuple[Point, ...]
    certified: tuple[Point, ...] = ()
    """The certified accuracies, at 0 the clean one; nothing unless all radii have them."""


def by_radius(records: Iterable[Record]) -> dict[Setting, list[Radii]]:
    """Return accuracy against eps of each model that was evaluated at two radii or more; at 0 it is the clean one."""
    found: dict[Setting, dict[tuple[str, str], dict[Fraction, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in sorted(records, key=lambda record: record.created):
        subject = (record.model.name, record.model.weights_sha256)
        found[setting_of(record, over_radii=True)][subject][parse_fraction(record.threat.eps)] = record
    curves: dict[Setting, list[Radii]] = {}
    for setting, models in found.items():
        lines = [_radii(name, at) for (name, _), at in sorted(models.items()) if len(at) > 1]
        if lines:
            curves[setting] = lines
    return dict(sorted(curves.items(), key=lambda item: (-len(item[1]), item[0].place)))


def _radii(name: str, at: Mapping[Fraction, Record]) -> Radii:
    points = {eps: Point.of_percentage(record.worst_case_acc, record.data.n) for eps, record in at.items()}
    any_record = next(iter(at.values()))
    points.setdefault(Fraction(0), Point.of_percentage(any_record.clean_acc, any_record.data.n))
    eps = tuple(sorted(points))
    proved = {
        radius: Point.of(record.certified.proved, record.data.n) for radius, record in at.items() if record.certified
    }
    proved[Fraction(0)] = points[Fraction(0)]
    certified = tuple(proved[value] for value in eps) if proved.keys() == points.keys() else ()
    return Radii(name, eps, tuple(points[value] for value in eps), certified)


@dataclass(frozen=True)
class Fall:
    """How many samples fell to one attack, or what became of them otherwise."""

    name: str
    count: int
    proved: int = 0
    """Of those that stand, how many are certified."""


def falls(record: Record) -> list[Fall]:
    """Return how many samples fell to what, in the order of the attacks: wrong at once, each stage, and what stands.

    The counts add up to the number of samples.
    """
    stages = [stage for attack in record.attacks for stage in attack.stages]
    wrong = record.data.n - round(record.clean_acc * record.data.n / 100)
    broken = [Fall(stage.name, stage.broken) for stage in stages]
    standing = record.data.n - wrong - sum(fall.count for fall in broken)
    proved = 0 if record.certified is None else record.certified.proved
    return [Fall("wrong without attack", wrong), *broken, Fall("standing", standing, proved)]


@dataclass(frozen=True)
class ClassAccuracy:
    """Clean and robust accuracy on the samples of one class."""

    label: int
    n: int
    clean: Point
    robust: Point


def per_class(verdicts: pd.DataFrame) -> list[ClassAccuracy]:
    """Return clean and robust accuracy of each class that occurs, by label."""
    right = verdicts["clean_pred"] == verdicts["label"]
    table = verdicts.assign(right=right, stands=verdicts["broken_by"].isna()).groupby("label")
    counts = table.agg(n=("right", "size"), clean=("right", "sum"), robust=("stands", "sum")).reset_index()
    return [
        ClassAccuracy(label, n, Point.of(clean, n), Point.of(robust, n))
        for label, n, clean, robust in counts.astype(int).to_numpy().tolist()
    ]


def read_classes(records: Sequence[Record], store: ResultStore) -> dict[str, list[ClassAccuracy] | str]:
    """Return the accuracies per class of each record by its id, or why they cannot be had."""
    found: dict[str, list[ClassAccuracy] | str] = {}
    for record in records:
        try:
            found[record.id] = per_class(store.verdicts(record))
        except UserError as error:
            found[record.id] = str(error)
    return found


def _covers(saved: dict[str, object], recorded: dict[str, object]) -> bool:
    """Return whether the settings of a run are those in a record; keys that are newer than one have their defaults."""
    try:
        return TrainConfig.model_validate(saved) == TrainConfig.model_validate(recorded)
    except (ValidationError, UserError):  # of a version with other keys
        return all(saved.get(key) == value for key, value in recorded.items())


def read_metrics(record: Record, checkpoints_dir: Path) -> pd.DataFrame | str:
    """Return ``metrics.csv`` of the run that a record is about, or a sentence that says why there is none.

    A folder of the same name may hold another training by now; its curves would be a lie, so its settings must be
    those of the record.
    """
    name = record.model.name
    if record.model.train_config is None:
        return "This model was trained elsewhere, so there are no training curves."
    folder = checkpoints_dir / name
    if folder.parent != checkpoints_dir or name in ("", ".", ".."):
        return "The name of this model is not that of a run's folder, so there are no training curves."
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["train"]
        metrics = pd.read_csv(folder / "metrics.csv")
    except OSError:
        return f"{folder} is not there, so there are no training curves; give --checkpoints-dir."
    except (ValueError, KeyError, TypeError):
        return f"{folder} holds no readable metrics.csv and config.json, so there are no training curves."
    if not isinstance(saved, dict) or not _covers(saved, record.model.train_config):
        return f"{folder} holds a run trained with other settings than this model's, so its curves are not shown."
    if "epoch" not in metrics or metrics.empty:
        return f"{folder / 'metrics.csv'} holds no epochs, so there are no training curves."
    return metrics
