"""Settings that decide nothing: refused where the user gave them, said where a recipe did."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustbench_gkl.config.changes import difference, flat, given_keys, put_key
from robustbench_gkl.config.idle import (
    CLEAN_LOSSES,
    RULES,
    TAUGHT_LOSSES,
    UNSMOOTHED_LOSSES,
    idle_keys,
    idle_of_recipe,
    refuse_idle,
)
from robustbench_gkl.config.recipes import read_recipe, recipe_names
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated
from robustbench_gkl.losses import LOSSES, Logits, create_loss

Settings = dict[str, Any]

CASES: list[tuple[Settings, str, str, Settings]] = [
    ({"awp.gamma": 0.005, "epochs": 5}, "awp.gamma", "awp.start_epoch is 10 and epochs 5", {"epochs": 10}),
    ({"awp.gamma": 0.1, "awp.start_epoch": 6, "epochs": 5}, "awp.start_epoch", "epochs 5", {"awp.start_epoch": 5}),
    ({"awp.start_epoch": 3}, "awp.start_epoch", "awp.gamma is 0", {"awp.gamma": 0.1}),
    ({"attack.ramp": 0.1, "epochs": 10}, "attack.ramp", "ends with the first of 10", {"epochs": 11}),
    (
        {"schedule.name": "multi-step", "schedule.milestones": [60, 70], "epochs": 50},
        "schedule.milestones",
        "epochs is 50",
        {"epochs": 61},
    ),
    (
        {"schedule.factor": 0.5},
        "schedule.factor",
        "schedule.name is cosine",
        {"schedule.name": "multi-step", "schedule.milestones": [5]},
    ),
    ({"schedule.pct_start": 0.5}, "schedule.pct_start", "schedule.name is cosine", {"schedule.name": "one-cycle"}),
    ({"schedule.per": "step", "schedule.name": "constant"}, "schedule.per", "constant", {"schedule.name": "cosine"}),
    (
        {"optimizer.momentum": 0.8, "schedule.name": "one-cycle", "schedule.momentum_range": [0.85, 0.95]},
        "optimizer.momentum",
        "schedule.momentum_range is",
        {"schedule.momentum_range": None},
    ),
    (
        {"optimizer.no_decay": "batchnorm", "optimizer.weight_decay": 0},
        "optimizer.no_decay",
        "optimizer.weight_decay is 0",
        {"optimizer.weight_decay": 0.1},
    ),
    ({"schedule.warmup_kind": "factor"}, "schedule.warmup_kind", "schedule.warmup is 0", {"schedule.warmup": 2}),
    ({"averaging.decay": 0.5}, "averaging.decay", "averaging.per is none", {"averaging.per": "epoch"}),
    (
        {"averaging.warmup": 0.5, "averaging.per": "epoch"},
        "averaging.warmup",
        "averaging.per is epoch",
        {"averaging.per": "step"},
    ),
    (
        {"second_view.robust_weight": 0.1},
        "second_view.robust_weight",
        "no second_view.augment",
        {"second_view.augment": "autoaugment"},
    ),
    (
        {"label_smoothing": 0.1, "loss": "rslad", "teacher": "one"},
        "label_smoothing",
        "the loss rslad gives no weight to a cross-entropy with the labels",
        {"loss": "ard", "loss_options.alpha": 0.5},
    ),
    (
        {"label_smoothing": 0.1, "loss": "ard", "teacher": "one"},
        "label_smoothing",
        "the loss ard gives no weight",
        {"loss_options.alpha": 0.9},
    ),
    (
        {"label_smoothing": 0.1, "loss": "kd", "teacher": "one", "loss_options.ce_weight": 0.0},
        "label_smoothing",
        "the loss kd gives no weight",
        {"loss_options.ce_weight": 0.1},
    ),
    ({"probe.steps": 3, "validation_fraction": 0}, "probe.steps", "no validation images", {"validation_fraction": 0.1}),
]
"""Settings, the key among them without an effect, why, and what gives it one."""


def made(settings: Settings) -> TrainConfig:
    values: Settings = {}
    for key, value in settings.items():
        put_key(values, key, value)
    return validated(TrainConfig, values, what="configuration")


@pytest.mark.parametrize(("settings", "key", "why", "mended"), CASES, ids=[case[1] for case in CASES])
def test_a_given_setting_without_an_effect_is_refused(settings: Settings, key: str, why: str, mended: Settings) -> None:
    with pytest.raises(UserError, match=rf"^{key} = .* has no effect: .*{why}.*; leave it out or change that$"):
        refuse_idle(made(settings), {key}, crafts=True)
    refuse_idle(made(settings), set(settings) - {key, "awp.gamma", "awp.start_epoch"}, crafts=True)
    refuse_idle(made(settings | mended), set(settings | mended), crafts=True)


def test_the_training_attack_decides_nothing_for_a_loss_on_clean_images() -> None:
    for key, value in {"attack.steps": 5, "attack.ramp": 0.5, "attack.start": "uniform"}.items():
        config = made({key: value, "loss": "standard"})
        with pytest.raises(UserError, match=f"{key} = .*: the loss standard trains on clean images"):
            refuse_idle(config, {key}, crafts=False)
        refuse_idle(config, {key}, crafts=True)


def is_smoothed(name: str) -> bool:
    """Return whether label smoothing changes the value of a loss; ARD's weight of the labels is 0 by default."""
    options = {"alpha": 0.5} if name == "ard" else {}
    logits, labels = Logits(*torch.randn(4, 6, 3)), torch.arange(6) % 3
    plain, smoothed = (
        create_loss(name, num_classes=3, options=options, label_smoothing=share).outer(logits, labels)
        for share in (0, 0.5)
    )
    return not torch.equal(plain, smoothed)


def test_the_losses_known_by_name_are_those_that_are_so() -> None:
    ours = [entry for entry in LOSSES.entries() if entry.value.__module__.startswith("robustbench_gkl.")]
    assert {entry.name for entry in ours if not entry.value.crafts} == CLEAN_LOSSES
    assert {entry.name for entry in ours if entry.value.taught} == TAUGHT_LOSSES
    assert {entry.name for entry in ours if not is_smoothed(entry.name)} == UNSMOOTHED_LOSSES
    assert "attack.steps" in idle_keys(made({"loss": "standard"}))
    assert "attack.steps" not in idle_keys(made({"loss": "trades"}))


def test_rules_name_keys_that_there_are() -> None:
    known = flat(TrainConfig().model_dump(mode="json"))
    for rule in RULES:
        for name in rule.keys:
            assert any(key == name or key.startswith(f"{name}.") for key in known), name
    tested = {case[1] for case in CASES}
    assert {name for rule in RULES for name in rule.keys} - tested == {"attack", "probe"}


def test_a_key_counts_as_given_however_it_is_given() -> None:
    assert given_keys({"lr": 0.1, "awp": {"gamma": 0.1, "start_epoch": 2}, "mean": [0.5]}) == {
        "optimizer.lr",
        "awp.gamma",
        "awp.start_epoch",
        "mean",
    }


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_have_no_idle_settings(name: str) -> None:
    recipe = read_recipe(name)
    config = validated(TrainConfig, recipe, what=name)
    assert idle_of_recipe(config, recipe, (), crafts=config.loss != "standard") is None
    everything = config.model_dump(mode="json")
    assert idle_of_recipe(config, everything, (), crafts=config.loss != "standard") is None


def test_what_a_shorter_run_makes_idle_is_one_line() -> None:
    recipe = read_recipe("trades-awp-cifar10-wrn34-10")
    config = validated(TrainConfig, recipe | {"epochs": 5}, what="configuration")
    line = idle_of_recipe(config, recipe, {"epochs"}, crafts=True)
    assert line is not None
    assert "awp.gamma = 0.005" in line
    assert "(awp.start_epoch is 10 and epochs 5)" in line
    assert "\n" not in line
    assert idle_of_recipe(config, recipe, {"awp.gamma", "awp.start_epoch"}, crafts=True) is None


def test_keys_that_are_off_anyway_are_idle_without_a_word() -> None:
    assert "averaging.decay" in idle_keys(TrainConfig(), crafts=True)
    refuse_idle(TrainConfig(), (), crafts=True)


def test_the_difference_names_the_first_key_with_both_values() -> None:
    one, other = made({"attack.steps": 5}), made({"attack.steps": 5, "optimizer.lr": 0.2, "loss_options.beta": 3.0})
    assert difference(one.model_dump(), one.model_dump()) is None
    assert difference(one.model_dump(), other.model_dump()) == ("loss_options.beta", None, 3.0)
    assert difference(other.model_dump(), one.model_dump()) == ("optimizer.lr", 0.2, 0.1)
