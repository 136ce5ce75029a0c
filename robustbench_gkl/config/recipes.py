"""Shipped recipes and recipe files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from robustbench_gkl.config.changes import flat, with_changes
from robustbench_gkl.config.files import read_mapping
from robustbench_gkl.config.former import has_former_key, with_todays_meaning
from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.plugins import load_installed
from robustbench_gkl.core.validation import Frozen, validated


class PublishedFigures(Frozen):
    """What a recipe's authors report, in percent of the full test set."""

    clean: float | None = Field(None, ge=0, le=100)
    autoattack: float | None = Field(None, ge=0, le=100)
    source: str

    @model_validator(mode="after")
    def _some_figure(self) -> PublishedFigures:
        if self.clean is None and self.autoattack is None:
            raise ValueError("give clean, autoattack or both")
        return self

    def __str__(self) -> str:
        figures = {"clean": self.clean, "AutoAttack": self.autoattack}
        named = ", ".join(f"{name} {value:.2f}" for name, value in figures.items() if value is not None)
        return f"{named} ({self.source})"


RECIPES = Path(__file__).parents[1] / "recipes"


_folders: list[Path] = []
"""Folders of recipes of plugins."""


def add_recipes(folder: Path) -> None:
    """Add the recipes of a folder, as a plugin does when it is imported.

    Each ``NAME.toml`` is a recipe, or holds several: those in its table ``recipes``, by name, each laid over the file's
    other keys.

    Raises:
        UserError: no recipes in the folder, a name that is taken, or a malformed table of recipes.
    """
    found = _recipes_of(folder)
    if not found:
        raise UserError(f"{folder} holds no recipes; expected NAME.toml")
    if folder in _folders:
        return
    if taken := sorted(set(found) & set(recipe_names())):
        raise UserError(f"{folder}: the recipe {taken[0]!r} is there already; give it another name")
    _folders.append(folder)


@cache
def _recipes_of(folder: Path) -> dict[str, Path]:
    """Return the files of the recipes in a folder, by the recipes' names."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.toml")):
        for name in _several(path) or [path.stem]:
            if name in found:
                raise UserError(f"{path}: the recipe {name!r} is in {found[name].name} too; give it another name")
            found[name] = path
    return found


def _several(path: Path) -> dict[str, dict[str, Any]]:
    """Return the recipes of a file that holds several, by name; none for a file that is one itself."""
    if f"[{_SEVERAL}." not in path.read_text(encoding="utf-8"):
        return {}
    recipes = read_mapping(path).get(_SEVERAL, {})
    if not isinstance(recipes, dict) or not all(isinstance(keys, dict) for keys in recipes.values()):
        raise UserError(f"{path}: {_SEVERAL} must be tables of training keys, such as [{_SEVERAL}.NAME]")
    return recipes


_SEVERAL = "recipes"
"""The table of the recipes in a file that holds several."""


def _recipe_paths() -> dict[str, Path]:
    """Return the files of the recipes, shipped ones and those of plugins, by name."""
    return {name: path for folder in (RECIPES, *_folders) for name, path in _recipes_of(folder).items()}


def recipe_names() -> list[str]:
    """Return the names of the recipes, sorted."""
    load_installed()
    return sorted(_recipe_paths())


def _recipe_values(name: str) -> dict[str, Any]:
    """Return all keys of a recipe by its name or its file."""
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        load_installed()
        paths = _recipe_paths()
        if name not in paths:
            raise unknown("recipe", name, paths, listing="gklbench list recipes shows all")
        path = paths[name]
    values = read_mapping(path)
    recipes = values.pop(_SEVERAL, None)
    if recipes is None:
        return values
    if name not in recipes:
        names = ", ".join(recipes)
        raise UserError(f"{path} holds several recipes, which only a plugin can offer (add_recipes): {names}")
    return with_changes(values, flat(recipes[name]))


def read_recipe(name: str) -> dict[str, Any]:
    """Return the training keys of a recipe by its name, or of a file if ``name`` ends in ``.toml`` or ``.json``.

    A run's ``config.json`` is such a file too: its ``train`` table is what is returned. Files of version 0.1 that show
    by their keys keep their meaning. The published figures that a recipe may carry are left out; see
    :func:`published_figures`.

    Raises:
        UserError: no such recipe or file, or one that cannot be read; a run that was imported and not trained.
    """
    values = _recipe_values(name)
    saved = "train" in values
    if saved:
        values = values["train"]
        if not isinstance(values, dict):
            raise UserError(f"{name} belongs to an imported run, which says nothing about its training")
    values.pop("published", None)
    return with_todays_meaning(values) if saved or has_former_key(values) else values


def published_figures(name: str) -> PublishedFigures | None:
    """Return what the authors of a recipe report, or None if the recipe does not say.

    Raises:
        UserError: no such recipe, or a malformed table.
    """
    figures = _recipe_values(name).get("published")
    return None if figures is None else validated(PublishedFigures, figures, what=f"recipe {name}, published")
