"""Suite files: from a TOML matrix to its cells.

A list is an axis: the suite has a cell for each combination of the axes' values. The few keys whose value is itself a
list (``attacks``, ``mean``, ``schedule.milestones``, ...) become an axis by a list of lists.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from robustbench_gkl.attacks import attacks_to_run
from robustbench_gkl.config.changes import SHORT_KEYS, flat, given_keys, put_key, read_assignment, with_changes
from robustbench_gkl.config.files import read_mapping
from robustbench_gkl.config.idle import TAUGHT_LOSSES, check_teacher, idle_keys, without_effect
from robustbench_gkl.config.names import WEIGHTS, check_name, run_name, word
from robustbench_gkl.config.options import Native, evaluation_config
from robustbench_gkl.config.recipes import read_recipe
from robustbench_gkl.config.schema import EvalConfig, ModelOptions, TrainConfig
from robustbench_gkl.core.declared import declared_names
from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.validation import validated
from robustbench_gkl.data.facts import usual_threat
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.runs import find_run, look_for
from robustbench_gkl.sources.source import OutsideSource, RunSource
from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell
from robustbench_gkl.suite.order import in_order
from robustbench_gkl.suite.shipped import suite_path

Flat = dict[str, Any]
"""Dotted keys and their values."""

_TOP = ("name", "models", "train", "variants", "eval")
_NAMED_BY = ("recipe", "loss", "model", "dataset", "seed")
"""Keys whose values are in the automatic name anyway."""
_BARE = ("variant", "loss", "model")
"""Keys whose values need no key beside them in a name."""


@dataclass(frozen=True)
class ModelEntry:
    """A model that is only evaluated.

    Attributes:
        model: a MODEL argument.
        name: its name on the board; None for its own.
        options: what is done to images in front of it.
    """

    model: str
    name: str | None = None
    options: ModelOptions = field(default_factory=ModelOptions)


@dataclass(frozen=True)
class Suite:
    """A suite: each training run is followed by its evaluations."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def trainings(self) -> list[TrainCell]:
        """The runs to be trained."""
        return [cell for cell in self.cells if isinstance(cell, TrainCell)]

    @property
    def evaluations(self) -> list[EvalCell]:
        """The evaluations."""
        return [cell for cell in self.cells if isinstance(cell, EvalCell)]


def read_suite(path: Path, *, assignments: Sequence[str] = (), checkpoints_dir: Path = Path("checkpoints")) -> Suite:
    """Return the suite in a TOML (or JSON) file.

    Args:
        path: the file, or the name of a suite that comes with the package.
        assignments: ``train.KEY=VALUE`` and ``eval.KEY=VALUE``, which win over the file.
        checkpoints_dir: where the runs named in ``models`` are.

    Raises:
        UserError: what is wrong with which key of which table.
    """
    path = suite_path(path)
    values = read_mapping(path)
    for key in values:
        if key not in _TOP:
            raise unknown(f"key of {path}", key, _TOP)
    name = check_name(str(values.get("name", path.stem)))
    changes = _changes(assignments)
    trainings = in_order(_trainings(values, changes["train"], suite=name), checkpoints_dir)
    tables = [flat(table) | changes["eval"] for table in _tables(values, "eval")]
    questions = [chosen for table in tables for chosen, _ in _expand(table, EvalConfig)]
    models = _models(values)
    _check_models(models, trainings, checkpoints_dir)
    if not trainings and not models:
        raise UserError(f"{path} has nothing to do: it needs a [train] table or models = [...]")
    cells: list[Cell] = []
    for training in trainings:
        native = Native(training.config.dataset, training.config.threat)
        cells.append(training)
        cells += [_evaluation(ModelEntry(training.run), training, native, chosen) for chosen in questions]
    for model in models:
        native = _native(model, checkpoints_dir)
        cells += [_evaluation(model, None, native, chosen) for chosen in questions]
    return Suite(name, tuple({cell.key: cell for cell in cells}.values()))


def _changes(assignments: Sequence[str]) -> dict[str, Flat]:
    changes: dict[str, Flat] = {"train": {}, "eval": {}}
    for key, value in map(read_assignment, assignments):
        table, dot, rest = key.partition(".")
        if table not in changes or not dot:
            raise UserError(f"--set of a suite needs train.KEY=VALUE or eval.KEY=VALUE, got {key}")
        changes[table] |= flat({rest: value})
    return changes


def _tables(values: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the tables under ``key``: none, one or an array of them."""
    tables = values.get(key, [])
    tables = tables if isinstance(tables, list) else [tables]
    if not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{key} must be a table of keys ([{key}]) or several ([[{key}]]), got {values[key]!r}")
    return tables


def _models(values: Mapping[str, Any]) -> list[ModelEntry]:
    models = values.get("models", [])
    if not isinstance(models, list) or not all(isinstance(model, (str, dict)) for model in models):
        raise UserError(f"models must be a list of MODELs, or of tables with a model and its options, got {models!r}")
    if models and "eval" not in values:
        raise UserError("models are only evaluated, so they need an [[eval]] table")
    return [_model(model if isinstance(model, dict) else {"model": model}) for model in models]


def _model(values: dict[str, Any]) -> ModelEntry:
    known = ("model", "name", *ModelOptions.model_fields)
    for key in values:
        if key not in known:
            raise unknown("key of models", key, known)
    if not isinstance(values.get("model"), str):
        raise UserError(f"a table of models needs model = MODEL, got {values!r}")
    name = values.get("name")
    options = {key: value for key, value in values.items() if key not in ("model", "name")}
    return ModelEntry(
        values["model"],
        None if name is None else check_name(str(name)),
        validated(ModelOptions, options, what=f"models, {values['model']}"),
    )


def _check_models(models: Sequence[ModelEntry], trainings: Sequence[TrainCell], checkpoints_dir: Path) -> None:
    """Refuse two models of one name, of which the later would supersede the other, and options that a run has not.

    Raises:
        UserError: there are some.
    """
    taken: dict[str, object] = {cell.run: cell for cell in trainings}
    for entry in models:
        outside = parse_model(entry.model)
        if outside is None and (given := entry.options.given()):
            raise UserError(f"models: {entry.model} is a run, which has its {', '.join(given)} inside; leave them out")
        run = look_for(entry.model, checkpoints_dir=checkpoints_dir).name if outside is None else outside.name
        name = entry.name or run
        if taken.setdefault(name, entry) != entry and not (outside is None and run == name):
            raise UserError(f"models: {entry.model} has the name {name!r} of another model; give it one of its own")


def _native(entry: ModelEntry, checkpoints_dir: Path) -> Native:
    """Return what a model was made for."""
    outside = parse_model(entry.model)
    if outside is None:
        return RunSource(find_run(entry.model, checkpoints_dir=checkpoints_dir)).native()
    return OutsideSource(outside, entry.options).native()


def _trainings(values: Mapping[str, Any], changes: Flat, *, suite: str) -> list[TrainCell]:
    variants = values.get("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(table, dict) for table in variants.values()):
        raise UserError("variants must be tables of training keys, such as [variants.awp]")
    found: dict[str, _Named] = {}
    effects: dict[str, list[str | None]] = {}
    for table in _tables(values, "train"):
        for variant, more in (variants or {"": {}}).items():
            for chosen, axes in _expand(flat(table) | flat(more) | changes, TrainConfig):
                one = _training(chosen, axes, suite=suite, variant=variant)
                for key, line in _effects(one.cell.config, chosen).items():
                    effects.setdefault(key, []).append(line)
                other = found.setdefault(one.cell.run, one)
                if other.cell.config != one.cell.config:
                    raise UserError(_clash(one, other))
    if variants and "train" not in values:
        raise UserError("variants are variants of a [train] table, which is missing")
    for lines in effects.values():
        if (line := lines[0]) is not None and None not in lines:
            raise UserError(f"train: {line}")
    return [one.cell for one in found.values()]


@cache
def _own_losses() -> frozenset[str]:
    """Return the names of our own losses, of which it is known without torch whether they read a teacher."""
    return frozenset(declared_names("robustbench_gkl.losses", "LOSSES") or ())


def _effects(config: TrainConfig, chosen: Flat) -> dict[str, str | None]:
    """Return for each key that a run was given a line that says that it has no effect; None where it has.

    A suite's key is refused if it has none in any run: an axis may well leave it idle in some.
    """
    idle, values = idle_keys(config), flat(config.model_dump(mode="json"))
    if chosen.get("teacher") and config.teacher is None:
        idle, values = idle | {"teacher": f"the loss {config.loss} reads none"}, values | {"teacher": chosen["teacher"]}
    given = given_keys(chosen) & values.keys()
    return {key: without_effect(key, values[key], idle[key]) if key in idle else None for key in sorted(given)}


@dataclass(frozen=True)
class _Named:
    cell: TrainCell
    fields: Flat = field(default_factory=dict)
    """What a name may be made of."""


def _clash(one: _Named, other: _Named) -> str:
    differing = [key for key in one.fields if one.fields[key] != other.fields.get(key)]
    hint = (
        f"they differ in {', '.join(differing)}; put {{{differing[0]}}} into name" if differing else "name them apart"
    )
    return f"two different runs are both named {one.cell.run!r}: {hint}"


def _training(chosen: Flat, axes: Sequence[str], *, suite: str, variant: str) -> _Named:
    template = chosen.pop("name", None)
    recipe = chosen.pop("recipe", None)
    values = {} if recipe is None else read_recipe(str(recipe)) | {"recipe": Path(str(recipe)).stem}
    config = validated(TrainConfig, with_changes(values, chosen), what="train")
    if config.loss in TAUGHT_LOSSES:
        check_teacher(config, taught=True)
    elif config.loss in _own_losses():  # an axis of losses may well have some that read no teacher
        config = config.model_copy(update={"teacher": None})
    fields = flat(config.model_dump(mode="json")) | {"variant": variant, "suite": suite}
    fields |= {short: fields[key] for short, key in SHORT_KEYS.items()}
    if template is not None:
        return _Named(TrainCell(check_name(_filled(str(template), fields)), config), fields)
    named = _NAMED_BY if config.recipe is None else ("recipe", "seed")
    parts = [variant] if variant else []
    for key in axes:
        if key not in named and key != "name":
            value = word(fields.get(SHORT_KEYS.get(key, key), chosen.get(key)))
            parts.append(value if key in _BARE else f"{key.rpartition('.')[2]}{value}")
    return _Named(TrainCell(run_name(config, *parts), config), fields)


def _filled(template: str, fields: Flat) -> str:
    """Return ``template`` with each ``{key}`` replaced by the key's value."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise unknown(f"key in the name {template!r}:", match[1], fields)
        return word(fields[match[1]])

    return re.sub(r"\{([\w.-]+)\}", value, template)


def _evaluation(model: ModelEntry, training: TrainCell | None, native: Native, chosen: Flat) -> EvalCell:
    chosen = dict(chosen)
    weights = chosen.pop("weights", None)
    if weights is not None and weights not in WEIGHTS:
        raise unknown("weights", str(weights), WEIGHTS)
    if weights is not None and training is None and parse_model(model.model) is not None:
        raise UserError(f"eval: weights = {weights} chooses among the weights of a run, and {model.model} is none")
    asked: dict[str, Any] = {}
    for key, value in chosen.items():
        put_key(asked, SHORT_KEYS.get(key, key), value)
    config = evaluation_config(native, asked=asked, threat=asked.pop("threat", {}), usual=usual_threat, what="eval")
    if config.eps_grid is not None:
        raise UserError(
            "eval: eps_grid makes several records; give a list of radii as eps, or use gklbench eval --eps-grid"
        )
    if "none" in config.attacks and not {"eps", "norm", "threat.eps", "threat.norm"}.isdisjoint(chosen):
        raise UserError("eval: the attack none measures clean accuracy, which no norm or eps changes; leave them out")
    attacks_to_run(config.attacks, config.threat, reference=config.engine == "reference")
    return EvalCell(model.model, config, weights, training, name=model.name, options=model.options)


def _expand(keys: Flat, model: type[BaseModel]) -> Iterator[tuple[Flat, list[str]]]:
    """Yield each combination of the axes' values, and the names of the axes."""
    axes: dict[str, list[Any]] = {}
    for key, value in keys.items():
        whole = _is_list(model, SHORT_KEYS.get(key, key))
        if isinstance(value, list) and (not whole or (value and all(isinstance(item, list) for item in value))):
            if not value:
                raise UserError(f"{key} is an axis without a value; give it at least one")
            axes[key] = value
    for values in itertools.product(*axes.values()):
        yield keys | dict(zip(axes, values, strict=True)), [key for key, choices in axes.items() if len(choices) > 1]


def _is_list(model: type[BaseModel], key: str) -> bool:
    """Whether the key's value is itself a list."""
    name, _, rest = key.partition(".")
    if name not in model.model_fields:
        return False
    annotation = model.model_fields[name].annotation
    if rest:
        return isinstance(annotation, type) and issubclass(annotation, BaseModel) and _is_list(annotation, rest)
    return any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
