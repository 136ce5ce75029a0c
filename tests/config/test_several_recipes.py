"""Files that hold several recipes, and the published settings of distillation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reference_models import SHARED, needs_shared

from robustbench_gkl.config.recipes import add_recipes, published_figures, read_recipe, recipe_names
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import validated

METHOD = SHARED / "gkl-method.md"


def recipe(name: str) -> TrainConfig:
    return validated(TrainConfig, read_recipe(name), what=name)


def test_a_recipe_of_several_is_laid_over_the_files_other_keys() -> None:
    values = read_recipe("kd-cifar100-vgg13-mobilenetv2")
    assert values == {
        "dataset": "cifar100",
        "model": "mobilenetv2",
        "teacher": "standard-cifar100-vgg13-seed0",
        "loss": "kd",
        "epochs": 240,
        "batch_size": 64,
        "augment": "crop-flip",
        "mean": [0.5071, 0.4867, 0.4408],
        "std": [0.2675, 0.2565, 0.2761],
        "validation_fraction": 0.0,
        "optimizer": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "multi-step", "milestones": [150, 180, 210], "factor": 0.1},
    }
    figures = published_figures("gkl-kd-imagenet-lt-resnext101-resnet18")
    assert figures is not None
    assert str(figures) == "clean 45.40 (github.com/jiequancui/DKL)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[recipes.digits-gkl]\nepochs = 1\n", "the recipe 'digits-gkl' is there already"),
        ("[recipes.one]\nepochs = 1\n[recipes.two]\n", "the recipe 'two' is in several.toml too"),
        ("recipes.one = 3\n[recipes.two]\n", r"recipes must be tables of training keys, such as \[recipes.NAME\]"),
    ],
)
def test_what_cannot_be_several_recipes(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "several.toml").write_text(text)
    (tmp_path / "two.toml").write_text("epochs = 2\n")
    with pytest.raises(UserError, match=says):
        add_recipes(tmp_path)
    assert "one" not in recipe_names()


def test_a_file_of_several_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "several.toml").write_text("[recipes.one]\nepochs = 1\n[recipes.two]\n")
    with pytest.raises(UserError, match=r"holds several recipes, which only a plugin can offer .*: one, two$"):
        read_recipe(str(tmp_path / "several.toml"))


def test_a_teacher_is_a_run_of_a_recipe_for_the_same_images() -> None:
    for name in recipe_names():
        student = recipe(name)
        if student.teacher is not None and student.teacher.endswith("-seed0"):
            teacher = recipe(student.teacher.removesuffix("-seed0"))
            assert (teacher.loss, teacher.teacher) == ("standard", None)
            assert (teacher.dataset, teacher.mean, teacher.std) == (student.dataset, student.mean, student.std)


@needs_shared
def test_the_published_pairs_of_cifar100() -> None:
    number = r"([\d.]+)"
    row = re.compile(
        rf"\| (\S+) to (\S+)[^|]*\| {number} \| {number} / {number} / {number} \| (class|sample|\(gamma 0\)) "
        rf"\| {number} / {number} / {number} \|"
    )
    pairs = [match.groups() for match in map(row.match, METHOD.read_text().splitlines()) if match]
    assert len(pairs) == 11
    for teacher, student, rate, alpha, beta, gamma, weights, *figures in pairs:
        names = (word.lower().replace("wrn-", "wrn").replace("(width", "") for word in (teacher, student))
        pair = "cifar100-{}-{}".format(*names)
        config = recipe(f"gkl-kd-{pair}")
        found = config.loss_options
        assert [found[key] for key in ("alpha", "beta", "gamma")] == [float(alpha), float(beta), float(gamma)]
        assert found["weights"] == (weights if weights != "(gamma 0)" else "class")
        assert config.optimizer.lr == float(rate)
        for loss, figure in zip(("kd", "dkd", "ikl-kd"), figures, strict=True):
            published = published_figures(f"{loss}-{pair}")
            assert published is not None
            assert published.clean == float(figure)
            assert recipe(f"{loss}-{pair}").optimizer.lr == float(rate)
