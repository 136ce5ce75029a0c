"""Every shipped recipe, at reduced width, on generated data in its data set's real file format."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from dataset_files import build

from robustbench_gkl.cli.list_command import command as list_command
from robustbench_gkl.config.files import read_mapping, to_toml
from robustbench_gkl.config.recipes import RECIPES, published_figures, read_recipe, recipe_names
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated
from robustbench_gkl.data import load_dataset
from robustbench_gkl.runs import Run
from robustbench_gkl.training import Event, StepReport, train

IMAGES = 10
"""The training images in a generated data set."""


NARROW = ((r"wrn-\d+-\d+", "wrn-10-1"), (r"^(vgg\d+|(kd-|imagenet-)?resne(t|xt)\d.*)$", "resnet8"))
"""Patterns of names of networks, and the narrow ones that stand in for them."""

LINEAR = """
from torch import nn


def net():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear({classes}))
"""


def reduced(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a recipe with narrow networks on generated files, two steps long, all else as it is."""
    values = read_recipe(name)
    for wide, narrow in NARROW:
        values["model"] = re.sub(wide, narrow, values["model"])
    values |= {"epochs": 1, "batch_size": 4, "validation_fraction": 0.2, "probe": {"steps": 1}}
    if "awp" in values:
        values["awp"]["start_epoch"] = 1
    if "steps" in values.get("attack", {}):
        values["attack"]["steps"] = 2
    if values.get("synthetic"):
        shape = (1, 28, 28) if values["dataset"] == "mnist" else (32, 32, 3)
        images = np.random.default_rng(0).integers(0, 256, (9, *shape), dtype=np.uint8)
        np.savez(folder / "generated.npz", image=images, label=np.arange(9))
        values["synthetic"]["files"] = [str(folder / "generated.npz")]
    kind, path, _ = values["dataset"].partition(":")
    files = build("folder:PATH" if path else kind, folder / "data", monkeypatch)
    values["dataset"] = files.name
    if kind == "digits":
        values["train_size"] = IMAGES
    if "teacher" in values:
        classes = len(load_dataset(files.name, data_dir=folder / "data").classes)
        (folder / "teacher.py").write_text(LINEAR.format(classes=classes))
        values["teacher"] = f"{folder / 'teacher.py'}:net"
    return values


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = validated(TrainConfig, reduced(name, tmp_path, monkeypatch), what=name)
    run = Run(tmp_path / "run")
    events: list[Event] = []
    rows = train(config, run, device=torch.device("cpu"), data_dir=tmp_path / "data", on_event=events.append)
    assert [event.step for event in events if isinstance(event, StepReport)] == [1, 2]
    assert all(np.isfinite(value) for value in rows[-1].values())
    expected = ["best", "last"] if config.averaging.per == "none" else ["average", "best", "last"]
    assert sorted(run.available()) == expected
    for which in run.available():
        assert all(bool(tensor.isfinite().all()) for tensor in run.load_model(which).state_dict().values())


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_recipe_says_everything(name: str, tmp_path: Path) -> None:
    config = validated(TrainConfig, read_recipe(name), what=name)
    for suffix, text in (
        (".json", config.model_dump_json()),
        (".toml", to_toml(config.model_dump(mode="json"))),
    ):
        path = tmp_path / f"resolved{suffix}"
        path.write_text(text)
        assert validated(TrainConfig, read_recipe(str(path)), what="resolved") == config


def test_recipes_say_what_was_published_and_where() -> None:
    shown = CliRunner().invoke(list_command, ["recipes"], catch_exceptions=False).output.splitlines()
    lines = {line.split()[0]: line for line in shown}
    assert list(lines) == recipe_names()
    assert "clean 65.76, AutoAttack 31.91 (arXiv 2503.08038" in lines["gkl-cifar100-wrn34-10"]
    assert "published" not in lines["digits-gkl"]
    for name in recipe_names():
        figures = published_figures(name)
        if figures is not None:
            assert figures.source
            assert figures.clean is None or figures.autoattack is None or figures.autoattack < figures.clean
        assert "published" not in read_recipe(name)


def test_recipes_carry_nothing_of_a_machine() -> None:
    for path in RECIPES.glob("*.toml"):
        assert not re.search(r"/home|/work|/data|cuda|device|num_workers", path.read_text())


def test_the_published_settings_of_gkl() -> None:
    for dataset, inner_beta, gamma in (("cifar10", 0.0, 0.2), ("cifar100", 1.0, 0.4)):
        for suffix, smoothing, temperature in (("", 1.0, 4.0), ("-gamma", gamma, 1.0)):
            config = validated(TrainConfig, read_recipe(f"gkl-{dataset}-wrn34-10{suffix}"), what="recipe")
            assert config.loss_options == {
                "alpha": 4.0,
                "beta": 20.0,
                "gamma": smoothing,
                "prior_temperature": temperature,
                "inner_alpha": 1.0,
                "inner_beta": inner_beta,
            }
            assert (config.epochs, config.batch_size, config.optimizer.lr) == (200, 128, 0.2)
            assert (config.optimizer.weight_decay, config.optimizer.momentum) == (5e-4, 0.9)
            assert (config.awp.gamma, config.awp.start_epoch) == (0.005, 10)
            assert (config.averaging.per, config.averaging.decay) == ("epoch", 0.9)
            assert (config.attack.budget, config.attack.ramp, config.schedule.name) == ("high-as-run", 1.0, "cosine")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trades-cifar10-wrn34-10", (76, 128, 0.1, 2e-4, "multi-step", (74, 89, 99), "none", 10, Fraction(2, 255))),
        ("mart-cifar10-wrn34-10", (90, 128, 0.1, 7e-4, "multi-step", (74, 89), "none", 10, Fraction(2, 255))),
        ("pgd-at-cifar10-wrn34-10", (205, 128, 0.1, 2e-4, "multi-step", (102, 153), "none", 7, Fraction(2, 255))),
        ("mnist-trades", (100, 128, 0.01, 0.0, "multi-step", (54, 74, 89), "none", 40, Fraction(1, 100))),
        (
            "trades-awp-l2-cifar10-wrn34-10",
            (200, 128, 0.1, 5e-4, "multi-step", (99, 149), "none", 10, Fraction(128, 255) / 5),
        ),
        ("trades-1m-cifar10-wrn28-10", (400, 512, 0.2, 5e-4, "one-cycle", (), "step", 10, Fraction(2, 255))),
        ("trades-20m-cifar10-wrn28-10", (2400, 2048, 0.2, 5e-4, "one-cycle", (), "step", 10, Fraction(2, 255))),
        (
            "trades-50m-l2-cifar10-wrn28-10",
            (1600, 2048, 0.2, 5e-4, "one-cycle", (), "step", 10, Fraction(128, 255) / 5),
        ),
    ],
)
def test_the_settings_in_other_authors_code(name: str, expected: tuple[Any, ...]) -> None:
    config = validated(TrainConfig, read_recipe(name), what="recipe")
    optimizer, schedule, attack = config.optimizer, config.schedule, config.attack
    assert expected == (
        *(config.epochs, config.batch_size, optimizer.lr, optimizer.weight_decay),
        *(schedule.name, schedule.milestones, config.averaging.per, attack.steps, attack.step_size),
    )


def test_generated_data_differs_in_the_loss_alone() -> None:
    for setting in ("1m-cifar10", "1m-cifar100", "20m-cifar10", "50m-cifar100"):
        trades, gkl = (read_recipe(f"{loss}-{setting}-wrn28-10") for loss in ("trades", "gkl"))
        assert {key for key in trades if trades[key] != gkl[key]} == {"loss", "loss_options"}


def test_an_imported_run_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"name": "x", "train": null}')
    with pytest.raises(UserError, match="imported run"):
        read_recipe(str(path))


def test_generated_images_and_their_share_go_together(tmp_path: Path) -> None:
    config = validated(TrainConfig, {"dataset": "digits", "synthetic": {"fraction": 0.5}}, what="recipe")
    with pytest.raises(UserError, match=r"give the generated images with --synthetic FILE\.npz"):
        train(config, Run(tmp_path / "run"), device=torch.device("cpu"))


def test_toml_keeps_awkward_values(tmp_path: Path) -> None:
    values = {"text": 'a "b" \\ \n é', "numbers": [1, 2.5, 1e-05], "yes": True, "inner": {"x": 1, "deep": {"y": "z"}}}
    (tmp_path / "x.toml").write_text(to_toml(values | {"none": None}), encoding="utf-8")
    assert read_mapping(tmp_path / "x.toml") == values
