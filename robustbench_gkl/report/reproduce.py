"""The commands that make a record again. They are built from what the record says, and from nothing else."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from robustbench_gkl.config import TrainConfig, read_recipe, recipe_names, set_key
from robustbench_gkl.errors import UserError
from robustbench_gkl.results import Record

Command = list[list[str]]
"""A command as groups of words; the words of a group belong on one line."""


def shell_text(command: Command) -> str:
    """Return a command as it is typed, quoted, one group a line."""
    return " \\\n    ".join(shlex.join(group) for group in command)


def train_command(record: Record) -> Command | None:
    """Return the command that trains the model of a record.

    Settings that the recipe does not give are given by ``--set``, so the command means the same whatever the
    defaults of options are. None for a model trained elsewhere or by a version with other settings.
    """
    if record.model.train_config is None:
        return None
    try:
        config = TrainConfig.model_validate(record.model.train_config)
    except (ValidationError, UserError):
        return None
    wanted = _flat(config.model_dump(mode="json", exclude={"recipe"}))
    recipes = [config.recipe] if config.recipe in recipe_names() else []
    for recipe in (*recipes, None):
        changed = _changes(wanted, recipe)
        if changed is not None:
            head = ["gklbench", "train", *([recipe] if recipe else []), "--name", record.model.name]
            return [head, *(["--set", f"{key}={_toml(value)}"] for key, value in changed.items())]
    return None


def eval_command(record: Record) -> Command | None:
    """Return the command that evaluates a trained model as a record did.

    None where the samples were not the first ones of the split, which no option asks for.
    """
    if record.data.index_ranges != ((0, record.data.n),):
        return None
    data = ["--dataset", record.data.dataset, *(["--split", record.data.split] if record.data.split != "test" else [])]
    how = ["--seed", str(record.seed), "--batch-size", str(record.batch_size)]
    if record.engine != "native":
        how += ["--engine", record.engine]
    if record.model.weights is not None:
        how += ["--weights", record.model.weights]
    settings = record.protocol[0]
    if "search_precision" in settings:
        how += ["--search-precision", settings["search_precision"]]
    if settings.get("compiled"):
        how += ["--compile"]
    radius = ["--eps-grid", settings["eps_grid"]] if "eps_grid" in settings else ["--eps", record.threat.eps]
    return [
        ["gklbench", "eval", record.model.name],
        [*data, "--n", str(record.data.n)],
        ["--norm", record.threat.norm, *radius],
        *(["--attack", attack_spec(attack.label)] for attack in record.attacks),
        how,
    ]


def attack_spec(label: str) -> str:
    """Return the spec of the attack with this label: ``pgd-20:restarts=2`` is ``pgd:steps=20,restarts=2``."""
    if found := re.fullmatch(r"pgd-(\d+)(?::(.*))?", label):
        return ",".join(filter(None, (f"pgd:steps={found[1]}", found[2])))
    if found := re.fullmatch(r"autoattack-(\w+)", label):
        return f"autoattack:version={found[1]}"
    return label


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
