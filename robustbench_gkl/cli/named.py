"""Types of options and arguments that name something, which a shell completes. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    _Word = click.ParamType[str]
else:
    _Word = click.ParamType  # which was not generic in earlier versions of click


class _Name(_Word):
    """A word that names one of several things.

    Args:
        name: what it names, for the help.
        choices: returns the names that a shell offers.
        files: whether it may be a file as well, which is offered where no name fits.
    """

    def __init__(self, name: str, choices: Callable[[click.Context], Iterable[str]], *, files: bool = False) -> None:
        self.name, self._choices, self._files = name, choices, files

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word as it is; whoever uses it says what is wrong with it."""
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin as the word does."""
        found = [CompletionItem(name) for name in self._choices(ctx) if name.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type="file")] if self._files else [])


def _runs(ctx: click.Context) -> list[str]:
    from robustbench_gkl.runs.finding import runs_in

    return [run.name for run in runs_in(Path(ctx.params.get("checkpoints_dir") or "checkpoints"))]


def _recipes(ctx: click.Context) -> list[str]:
    from robustbench_gkl.config.recipes import recipe_names

    return recipe_names()


def _suites(ctx: click.Context) -> list[str]:
    from robustbench_gkl.suite.shipped import suite_names

    return suite_names()


def _attacks(ctx: click.Context) -> list[str]:
    from robustbench_gkl.attacks import ATTACKS

    return [entry.name for entry in ATTACKS.entries()]


def _declared(package: str, registry: str) -> Callable[[click.Context], list[str]]:
    """Return what gives the names that a package registers, without those that stand for many, such as ``wrn-D-W``."""

    def names(ctx: click.Context) -> list[str]:
        from robustbench_gkl.core.declared import declared_names

        declared = declared_names(f"robustbench_gkl.{package}", registry) or {}
        return [name for name, pattern in declared.items() if pattern is None]

    return names


MODEL, RUN = _Name("model", _runs, files=True), _Name("run", _runs)
RECIPE, SUITE = _Name("recipe", _recipes, files=True), _Name("suite", _suites, files=True)
ATTACK = _Name("spec", _attacks)
LOSS = _Name("loss", _declared("losses", "LOSSES"))
ARCHITECTURE = _Name("architecture", _declared("models", "MODELS"))
DATASET = _Name("dataset", _declared("data", "DATASETS"))
DEVICE = _Name("device", lambda ctx: ("auto", "cpu", "cuda"))
