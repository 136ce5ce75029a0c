"""Settings without an effect: which keys decide nothing beside the others. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_gkl.config.changes import flat
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError

CLEAN_LOSSES = frozenset({"standard", "kd", "kd-standardised", "dkd", "dkl-kd", "ikl-kd", "gkl-kd"})
"""Our losses that make no adversarial images, for those who ask without torch; a loss itself has it in ``crafts``."""
TAUGHT_LOSSES = CLEAN_LOSSES - {"standard"} | {"ard", "rslad", "adaad", "gkl-rd", "gkl-rd-adaptive"}
"""Our losses that read a teacher, likewise; a loss itself has it in ``taught``."""

UNSMOOTHED_LOSSES = frozenset({"rslad", "adaad", "gkl-rd", "gkl-rd-adaptive"})
"""Our losses without a cross-entropy with the labels, which ``label_smoothing`` could smooth."""


@dataclass(frozen=True)
class Rule:
    """Keys that are without an effect under a condition.

    Attributes:
        keys: dotted; a table stands for all keys in it.
        idle: returns whether they are, given the settings and whether the loss makes adversarial images.
        why: names the settings that make them so, with ``{key}`` for the value of a key.
    """

    keys: tuple[str, ...]
    idle: Callable[[TrainConfig, bool], bool]
    why: str


def _smooths_nothing(config: TrainConfig) -> bool:
    """Return whether one of our losses has no cross-entropy with the labels, or gives it no weight."""
    options = config.loss_options
    weight = 1 - options.get("alpha", 1) if config.loss == "ard" else options.get("ce_weight")
    return config.loss in UNSMOOTHED_LOSSES or (config.loss in TAUGHT_LOSSES and weight == 0)


def _never_perturbs(config: TrainConfig) -> bool:
    return config.awp.gamma > 0 and config.awp.start_epoch > config.epochs


RULES = (
    Rule(
        ("awp.gamma", "awp.start_epoch"),
        lambda config, crafts: _never_perturbs(config),
        "awp.start_epoch is {awp.start_epoch} and epochs {epochs}",
    ),
    Rule(("awp.start_epoch",), lambda config, crafts: config.awp.gamma == 0, "awp.gamma is 0"),
    Rule(
        ("label_smoothing",),
        lambda config, crafts: _smooths_nothing(config),
        "the loss {loss} gives no weight to a cross-entropy with the labels",
    ),
    Rule(("attack",), lambda config, crafts: not crafts, "the loss {loss} trains on clean images"),
    Rule(
        ("attack.ramp",),
        lambda config, crafts: 0 < config.attack.ramp * config.epochs <= 1,
        "the ramp ends with the first of {epochs} epochs",
    ),
    Rule(
        ("schedule.milestones",),
        lambda config, crafts: bool(config.schedule.milestones) and min(config.schedule.milestones) >= config.epochs,
        "epochs is {epochs}",
    ),
    Rule(
        ("schedule.factor",),
        lambda config, crafts: config.schedule.name != "multi-step",
        "schedule.name is {schedule.name}",
    ),
    Rule(
        ("schedule.pct_start",),
        lambda config, crafts: config.schedule.name != "one-cycle",
        "schedule.name is {schedule.name}",
    ),
    Rule(("schedule.warmup_kind",), lambda config, crafts: config.schedule.warmup == 0, "schedule.warmup is 0"),
    Rule(
        ("schedule.per",),
        lambda config, crafts: config.schedule.name not in ("cosine", "one-cycle"),
        "schedule.name is {schedule.name}",
    ),
    Rule(
        ("optimizer.momentum",),
        lambda config, crafts: config.schedule.momentum_range is not None,
        "schedule.momentum_range is {schedule.momentum_range}",
    ),
    Rule(
        ("optimizer.no_decay",),
        lambda config, crafts: config.optimizer.weight_decay == 0,
        "optimizer.weight_decay is 0",
    ),
    Rule(("averaging.decay",), lambda config, crafts: config.averaging.per == "none", "averaging.per is none"),
    Rule(
        ("averaging.warmup",), lambda config, crafts: config.averaging.per != "step", "averaging.per is {averaging.per}"
    ),
    Rule(
        ("second_view.robust_weight",),
        lambda config, crafts: config.second_view.augment is None,
        "there is no second_view.augment",
    ),
    Rule(
        ("second_view.robust_weight",),
        lambda config, crafts: not crafts,
        "the loss {loss} trains on clean images",
    ),
    Rule(
        ("probe",),
        lambda config, crafts: config.validation_fraction == 0,
        "validation_fraction is 0, so there are no validation images",
    ),
)


def idle_keys(config: TrainConfig, *, crafts: bool | None = None) -> dict[str, str]:
    """Return the dotted keys that decide nothing in ``config``, each with the reason.

    Args:
        config: the resolved settings.
        crafts: whether the loss makes adversarial images; None to go by its name.
    """
    crafts = config.loss not in CLEAN_LOSSES if crafts is None else crafts
    values = flat(config.model_dump(mode="json"))
    found: dict[str, str] = {}
    for rule in RULES:
        if rule.idle(config, crafts):
            why = rule.why
            for key, value in values.items():
                why = why.replace(f"{{{key}}}", _text(value))
            for key in values:
                if any(key == name or key.startswith(f"{name}.") for name in rule.keys):
                    found.setdefault(key, why)
    return found


def refuse_idle(config: TrainConfig, given: Collection[str], *, crafts: bool) -> None:
    """Check that each of the keys that the user gave has an effect.

    Args:
        config: the resolved settings.
        given: dotted keys, see :func:`robustbench_gkl.config.changes.given_keys`.
        crafts: whether the loss makes adversarial images.

    Raises:
        UserError: one has none.
    """
    idle, values = idle_keys(config, crafts=crafts), flat(config.model_dump(mode="json"))
    for key in values:
        if key in idle and key in given and not _switches_off(key, values[key]):
            raise UserError(without_effect(key, values[key], idle[key]))


def without_effect(key: str, value: object, why: str) -> str:
    """Return the line that says that a setting decides nothing."""
    return f"{key} = {_text(value)} has no effect: {why}; leave it out or change that"


def check_teacher(config: TrainConfig, *, taught: bool) -> None:
    """Check that there is a teacher if, and only if, the loss reads one.

    Args:
        config: the resolved settings.
        taught: whether the loss reads a teacher's logits.

    Raises:
        UserError: it does and there is none, or there is one that it does not read.
    """
    if taught and config.teacher is None:
        raise UserError(f"the loss {config.loss} reads a teacher, and there is none; give --teacher MODEL")
    if not taught and config.teacher is not None:
        why = f"the loss {config.loss} reads no teacher"
        raise UserError(without_effect("teacher", config.teacher, why))


def idle_of_recipe(
    config: TrainConfig, recipe: Mapping[str, Any], given: Collection[str], *, crafts: bool
) -> str | None:
    """Return a line that names the recipe's own settings that decide nothing, or None if all do.

    Those that are the default anyway are left out: a run's ``config.json``, which is a recipe too, has all keys.

    Args:
        config: the resolved settings.
        recipe: the keys of the recipe, nested.
        given: dotted keys that the user gave.
        crafts: whether the loss makes adversarial images.
    """
    own = set(flat(recipe)) - set(given)
    values, usual = flat(config.model_dump(mode="json")), flat(TrainConfig().model_dump(mode="json"))
    reasons = {
        key: why
        for key, why in idle_keys(config, crafts=crafts).items()
        if key in own and values[key] != usual.get(key) and not _switches_off(key, values[key])
    }
    if not reasons:
        return None
    groups: dict[str, list[str]] = {}
    for key, why in reasons.items():
        groups.setdefault(why, []).append(f"{key} = {_text(values[key])}")
    return "of the recipe without effect here: " + "; ".join(
        f"{', '.join(keys)} ({why})" for why, keys in groups.items()
    )


def _switches_off(key: str, value: object) -> bool:
    """Return True for a value that asks for nothing to be done, which nothing can keep from having its effect."""
    return key == "attack.ramp" and value == 0


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
