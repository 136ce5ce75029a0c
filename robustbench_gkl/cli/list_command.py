"""``gklbench list``."""

from __future__ import annotations

from typing import Any

import click

_KINDS = ("losses", "attacks", "models", "datasets", "recipes")


@click.command()
@click.argument("kind", type=click.Choice(_KINDS))
def command(kind: str) -> None:
    """List what can be named: losses, attacks, models, datasets or recipes."""
    rows = _recipes() if kind == "recipes" else _registered(kind)
    width = max(len(name) for name, _ in rows)
    for name, summary in rows:
        click.echo(f"{name:{width}}  {summary}".rstrip())


def _registered(kind: str) -> list[tuple[str, str]]:
    from robustbench_gkl.attacks import ATTACKS
    from robustbench_gkl.data import DATASETS
    from robustbench_gkl.losses import LOSSES
    from robustbench_gkl.models import MODELS
    from robustbench_gkl.registry import Registry

    registries: dict[str, Registry[Any]] = {
        "losses": LOSSES,
        "attacks": ATTACKS,
        "models": MODELS,
        "datasets": DATASETS,
    }
    return [(entry.name, entry.summary) for entry in registries[kind].entries()]


def _recipes() -> list[tuple[str, str]]:
    from robustbench_gkl.config import TrainConfig, read_recipe, recipe_names, validated

    rows = []
    for name in recipe_names():
        config = validated(TrainConfig, read_recipe(name), what=f"recipe {name}")
        threat = config.threat.threat()
        rows.append((name, f"{config.loss} {config.model} on {config.dataset}, {threat}, {config.epochs} epochs"))
    return rows
