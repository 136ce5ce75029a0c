"""An example of a plugin: importing it registers a loss, an attack, a model, a data set and a recipe."""

from pathlib import Path

from gklbench_example import attack, dataset, loss, model
from robustbench_gkl.config.recipes import add_recipes

__all__ = ["attack", "dataset", "loss", "model"]

add_recipes(Path(__file__).parent / "recipes")
