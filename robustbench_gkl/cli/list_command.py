"""``gklbench list``."""

from __future__ import annotations

from typing import Any

import click

from robustbench_gkl.cli import sections

_KINDS = ("losses", "attacks", "models", "datasets", "recipes", "suites")


@sections.command(examples=["gklbench list recipes"])
@click.argument("kind", type=click.Choice(_KINDS))
def command(kind: str) -> None:
    """List what can be named: losses, attacks, models, datasets, recipes or suites."""
    from robustbench_gkl.report.terminal import listing_lines, make_console

    special = {"recipes": _recipes, "suites": _suites}
    rows = special[kind]() if kind in special else _registered(kind)
    click.echo("\n".join(listing_lines(rows, width=make_console().width)))


def _registered(kind: str) -> list[tuple[str, str]]:
    from robustbench_gkl.attacks import ATTACKS
    from robustbench_gkl.core.registry import Registry
    from robustbench_gkl.data import DATASETS
    from robustbench_gkl.losses import LOSSES
    from robustbench_gkl.models import MODELS

    registries: dict[str, Registry[Any]] = {
        "losses": LOSSES,
        "attacks": ATTACKS,
        "models": MODELS,
        "datasets": DATASETS,
    }
    return [(entry.name, entry.summary) for entry in registries[kind].entries()]


def _recipes() -> list[tuple[str, str]]:
    from robustbench_gkl.config.idle import CLEAN_LOSSES
    from robustbench_gkl.config.recipes import published_figures, read_recipe, recipe_names
    from robustbench_gkl.config.schema import TrainConfig
    from robustbench_gkl.core.validation import validated

    rows = []
    for name in recipe_names():
        config = validated(TrainConfig, read_recipe(name), what=f"recipe {name}")
        teacher = "" if config.teacher is None else f" from {config.teacher}"
        threat = "" if config.loss in CLEAN_LOSSES else f" {config.threat.threat()},"
        summary = f"{config.loss} {config.model}{teacher} on {config.dataset},{threat} {config.epochs} epochs"
        if (figures := published_figures(name)) is not None:
            summary += f"; published: {figures}"
        rows.append((name, summary))
    return rows


def _suites() -> list[tuple[str, str]]:
    """Return each shipped suite with the comment that its file begins with."""
    from robustbench_gkl.suite.shipped import SUITES, suite_names

    texts = {name: (SUITES / f"{name}.toml").read_text(encoding="utf-8") for name in suite_names()}
    return [(name, text.partition("\n")[0].removeprefix("# ")) for name, text in texts.items()]
