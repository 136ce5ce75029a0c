"""Commands to reproduce, given back to the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from report_samples import save_record

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.cli import train_command as cli
from robustbench_gkl.config.changes import set_key
from robustbench_gkl.config.recipes import read_recipe
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.report import reproduce
from robustbench_gkl.report.reproduce import eval_command, shell_text, train_command, unknown_question
from robustbench_gkl.results import Record, ResultStore


@pytest.fixture
def record(tmp_path: Path) -> Record:
    store = ResultStore(tmp_path / "results")
    store.prepare()
    return save_record(store, name="run-1", n=50)


def trained_with(record: Record, config: dict[str, Any] | None) -> Record:
    return record.model_copy(update={"model": record.model.model_copy(update={"train_config": config})})


def parsed(text: str) -> tuple[TrainConfig, str]:
    """Return what the command line makes of a typed train command."""
    words = shlex.split(text.replace("\\\n", " "))
    assert words[:2] == ["gklbench", "train"]
    given = cli.command.make_context("train", words[2:]).params
    changes = cli._changes(given["assignments"], (), {})
    return cli._configuration(cli._base(given["recipe"], None, anew=True), changes), given["name"]


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["seed=3", "epochs=7", "optimizer.lr=0.05", "threat.eps=2/255", "augment=none"],
        ["loss=gkl", "loss_options.alpha=5", "loss_options.beta=0.25", "optimizer.nesterov=true"],
        ["mean=[0.5]", "std=[0.25]", "train_size=512", "attack.step_size=1/255", "threat.norm=l2", "threat.eps=0.5"],
        ["dataset=npz:my data/x'y.npz", "augment=crop"],
        ["loss=kd", "teacher=net.py:build", "init=runs/first"],
    ],
    ids=["the recipe", "simple", "loss options", "nested", "quotes", "distillation"],
)
@pytest.mark.parametrize("recipe", ["digits-trades", "digits-gkl", None, "my-own-file"])
def test_the_train_command_means_what_was_recorded(recipe: str | None, assignments: list[str], record: Record) -> None:
    values = read_recipe(recipe) if recipe and recipe.startswith("digits") else {}
    for assignment in assignments:
        set_key(values, assignment)
    config = TrainConfig.model_validate(values | {"recipe": recipe})
    command = train_command(trained_with(record, config.model_dump(mode="json")))
    assert command is not None
    found, name = parsed(shell_text(command))
    assert name == "run-1"
    assert found.model_dump(exclude={"recipe"}) == config.model_dump(exclude={"recipe"})
    if not assignments and recipe == "digits-trades":
        assert command == [["gklbench", "train", "digits-trades", "--name", "run-1"]]


@pytest.mark.parametrize("extra", [{"loss_options": {"beta": 5.0}}, {"mean": [0.5], "std": [0.5]}])
def test_a_recipe_that_gives_what_the_run_lacked_is_not_used(
    extra: dict[str, Any], record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig.model_validate(read_recipe("digits-trades") | {"recipe": "digits-trades"})
    monkeypatch.setattr(reproduce, "read_recipe", lambda name: read_recipe(name) | extra)
    command = train_command(trained_with(record, config.model_dump(mode="json")))
    assert command is not None
    found, _ = parsed(shell_text(command))
    assert found.recipe is None
    assert found.model_dump(exclude={"recipe"}) == config.model_dump(exclude={"recipe"})


@pytest.mark.parametrize("config", [None, {"colour": "red"}, {"epochs": 0}], ids=["imported", "other version", "bad"])
def test_no_command_is_made_up(config: dict[str, Any] | None, record: Record) -> None:
    assert train_command(trained_with(record, config)) is None


@pytest.mark.parametrize(
    "spec",
    [
        "pgd",
        "pgd:steps=50,restarts=2,objective=margin",
        "pgd:step_size=1/255",
        "fgsm",
        "fgsm:objective=margin",
        "autoattack",
        "autoattack:version=plus",
        "autoattack:version=rand",
        "apgd-ce",
        "apgd:objective=margin",
        "apgd:objective=prob-margin,steps=7",
        "fab-t",
        "torchattacks.MIFGSM:steps=10",
    ],
)
def test_the_spec_that_is_typed_is_the_attack(spec: str, record: Record) -> None:
    attack = parse_attack(spec)
    assert record.config is not None
    config = record.config.model_copy(update={"attacks": (attack.canonical,)})
    command = eval_command(record.model_copy(update={"config": config}))
    assert command is not None
    (typed,) = [words[1] for words in command if words[0] == "--attack"]
    assert parse_attack(typed) == attack


def test_the_eval_command_says_all_that_was_asked(record: Record) -> None:
    command = eval_command(record)
    assert command is not None
    expected = (
        "gklbench eval run-1 --dataset cifar10 --n 50 --norm linf --eps 8/255 --attack pgd:steps=20 "
        "--attack autoattack --seed 0 --batch-size 250 --weights best"
    )
    assert shell_text(command).replace("\\\n    ", "") == expected
    assert record.config is not None
    odd = record.config.model_copy(update={"split": "train", "engine": "reference"})
    other = eval_command(record.model_copy(update={"config": odd}))
    assert other is not None
    assert ["--dataset", "cifar10", "--split", "train", "--n", "50"] in other
    assert "reference" in other[-1]


def test_samples_that_no_option_names_have_no_command(record: Record) -> None:
    data = record.data.model_copy(update={"sample_set": "chosen"})
    odd = record.model_copy(update={"data": data, "config": None})
    assert eval_command(odd) is None
    assert "chosen samples" in unknown_question(odd)
