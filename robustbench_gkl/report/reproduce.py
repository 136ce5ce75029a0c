"""The commands that make a record again. They are built from the record alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.config.changes import set_key
from robustbench_gkl.config.former import with_todays_meaning
from robustbench_gkl.config.idle import idle_keys
from robustbench_gkl.config.options import eval_options
from robustbench_gkl.config.recipes import read_recipe, recipe_names
from robustbench_gkl.config.schema import ModelOptions, TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results import Record

Command = list[list[str]]
"""A command as groups of words; the words of a group belong on one line."""


def shell_text(command: Command) -> str:
    """Return a command as it is typed, quoted, one group a line."""
    return " \\\n    ".join(shlex.join(group) for group in command)


def train_command(record: Record, *, name: str | None = None) -> Command | None:
    """Return the command that trains the model of a record.

    Settings that the recipe does not give are given by ``--set``, but for those without an effect, which are refused:
    the command trains the same model whatever the defaults of options are. None for a model trained elsewhere or by a
    version with other settings.
    """
    if record.model.train_config is None:
        return None
    try:
        config = TrainConfig.model_validate(with_todays_meaning(record.model.train_config))
    except (ValidationError, UserError):
        return None
    wanted = _flat(config.model_dump(mode="json", exclude={"recipe"}))
    recipes = [config.recipe] if config.recipe in recipe_names() else []
    for recipe in (*recipes, None):
        changed = _changes(wanted, recipe)
        if changed is not None:
            idle = idle_keys(config)
            changed = {key: value for key, value in changed.items() if key not in idle}
            head = ["gklbench", "train", *([recipe] if recipe else []), "--name", name or record.model.name]
            return [head, *(["--set", f"{key}={_toml(value)}"] for key, value in changed.items())]
    return None


def eval_command(record: Record, *, model: str | None = None, name: str | None = None) -> Command | None:
    """Return the command that evaluates a trained model as a record did; None where :func:`unknown_question` says why.

    Args:
        record: gives the question.
        model: what to evaluate; None for the record's model.
        name: under which name to record it; None for the model's own.
    """
    if record.config is None:
        return None
    try:
        brief = tuple(parse_attack(spec).brief for spec in record.config.attacks)
    except UserError:
        return None
    config, source = record.config.model_copy(update={"attacks": brief}), record.model.source
    if source is None:
        options = eval_options(config, weights=record.model.weights, name=name)
        return _with_options(record, model or record.model.run or record.model.name, options)
    if "argument" not in source:
        return None
    around = ModelOptions.model_validate({key: source[key] for key in ModelOptions.model_fields if key in source})
    options = eval_options(config, name=name or record.model.name, options=around)
    return _with_options(record, source["argument"], options)


def _with_options(record: Record, model: str, options: Command) -> Command:
    """Return the command about a model with the options of an evaluation; certificates have a command of their own."""
    if record.config is None or record.config.attacks != ("certify",):
        return [["gklbench", "eval", model], *options]
    *groups, how = options
    size = how.index("--batch-size")
    how = how[:size] + how[size + 2 :]
    if (found := record.certified) is not None and found.complete:
        how += ["--complete"]
        how += [] if found.calls_each is None else ["--per-sample", f"{found.calls_each}calls"]
        how += [] if found.seconds_each is None else ["--per-sample", f"{found.seconds_each:g}s"]
    return [["gklbench", "certify", model], *(group for group in groups if group[0] != "--attack"), how]


def unknown_question(record: Record) -> str:
    """Return why a record without its question cannot be made again."""
    if record.model.source is not None and "argument" not in record.model.source:
        return f"record {record.id} was made from Python; call gklbench.evaluate with the model again"
    if record.data.sample_set == "chosen":
        return f"record {record.id} was made on chosen samples, which no option asks for"
    for spec in () if record.config is None else record.config.attacks:
        try:
            parse_attack(spec)
        except UserError as error:
            return f"record {record.id} cannot be made again: {error}"
    labels = ", ".join(attack.label for attack in record.attacks if attack.spec is None) or "its attacks"
    return f"record {record.id} is of version 1, which does not tell all options of {labels}; evaluate the model again"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _changes(wanted: Mapping[str, Any], recipe: str | None) -> dict[str, Any] | None:
    """Return what must be set beside a recipe; None if it gives what cannot be taken back, or something is amiss."""
    given = TrainConfig.model_validate(read_recipe(recipe) if recipe else {})
    base = _flat(given.model_dump(mode="json", exclude={"recipe"}))
    changed = {key: value for key, value in wanted.items() if key not in base or base[key] != value}
    return None if set(base) - set(wanted) or None in changed.values() else changed


def _toml(value: object) -> str:
    """Return a value as ``--set`` reads it: text stays bare where it is read back as the same text."""
    if not isinstance(value, str):
        return json.dumps(value)
    read: dict[str, Any] = {}
    set_key(read, f"value={value}")
    return value if read["value"] == value else json.dumps(value)
