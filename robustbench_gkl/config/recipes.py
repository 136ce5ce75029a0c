"""Shipped recipes and recipe files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import (
    Field,
)

from robustbench_gkl.config.files import read_mapping
from robustbench_gkl.config.former import has_former_key, with_todays_meaning
from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.plugins import load_installed
from robustbench_gkl.core.validation import Frozen, validated


class PublishedFigures(Frozen):
    """What a recipe's authors report, in percent of the full test set."""

    clean: float = Field(ge=0, le=100)
    autoattack: float | None = Field(None, ge=0, le=100)
    source: str


RECIPES = Path(__file__).parents[1] / "recipes"


_folders: list[Path] = []
"""Folders of recipes of plugins."""


def add_recipes(folder: Path) -> None:
    """Add the recipes of a folder, as a plugin does when it is imported: each ``NAME.toml`` becomes a recipe.

    Raises:
        UserError: no such folder, or a name that is taken.
    """
    found = sorted(path.stem for path in folder.glob("*.toml"))
    if not found:
        raise UserError(f"{folder} holds no recipes; expected NAME.toml")
    if folder in _folders:
        return
    if taken := sorted(set(found) & set(recipe_names())):
        raise UserError(f"{folder}: the recipe {taken[0]!r} is there already; give it another name")
    _folders.append(folder)


def _recipe_paths() -> dict[str, Path]:
    """Return the recipes, shipped ones and those of plugins, by name."""
    return {path.stem: path for folder in (RECIPES, *_folders) for path in folder.glob("*.toml")}


def recipe_names() -> list[str]:
    """Return the names of the recipes, sorted."""
    load_installed()
    return sorted(_recipe_paths())


def _recipe_path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".toml", ".json"):
        return path
    known = recipe_names()
    if name not in known:
        raise unknown("recipe", name, known)
    return _recipe_paths()[name]


def read_recipe(name: str) -> dict[str, Any]:
    """Return the training keys of a recipe by its name, or of a file if ``name`` ends in ``.toml`` or ``.json``.

    A run's ``config.json`` is such a file too: its ``train`` table is what is returned. Files of version 0.1 that show
    by their keys keep their meaning. The published figures that a recipe may carry are left out; see
    :func:`published_figures`.

    Raises:
        UserError: no such recipe or file, or one that cannot be read; a run that was imported and not trained.
    """
    values = read_mapping(_recipe_path(name))
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
    figures = read_mapping(_recipe_path(name)).get("published")
    return None if figures is None else validated(PublishedFigures, figures, what=f"recipe {name}, published")
