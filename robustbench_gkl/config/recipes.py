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
from robustbench_gkl.core.validation import Frozen, validated


class PublishedFigures(Frozen):
    """What a recipe's authors report, in percent of the full test set."""

    clean: float = Field(ge=0, le=100)
    autoattack: float | None = Field(None, ge=0, le=100)
    source: str


RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _recipe_path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".toml", ".json"):
        return path
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return RECIPES / f"{name}.toml"


def read_recipe(name: str) -> dict[str, Any]:
    """Return the training keys of a shipped recipe, or of a file if ``name`` ends in ``.toml`` or ``.json``.

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
