"""Suite files become cells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from suite_files import suite_of, train_config

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.suite import Suite, read_suite


def test_lists_are_axes_and_each_run_is_followed_by_its_evaluations(tmp_path: Path) -> None:
    text = """
    [train]
    recipe = "digits-trades"
    seed = [0, 1]
    attack.steps = [2, 4]
    [[eval]]
    attacks = ["fgsm"]
    eps = ["0.1", "0.05"]
    """
    suite = suite_of(tmp_path, text)
    assert [cell.run for cell in suite.trainings] == [
        "digits-trades-steps2-seed0",
        "digits-trades-steps4-seed0",
        "digits-trades-steps2-seed1",
        "digits-trades-steps4-seed1",
    ]
    assert {cell.config.attack.steps for cell in suite.trainings} == {2, 4}
    first, *others = suite.cells[:3]
    assert [(cell.run, cell.needs) for cell in others] == [(first.run, (first.key,))] * 2
    assert [str(cell.config.threat) for cell in suite.evaluations[:2]] == ["linf 0.1", "linf 0.05"]


def test_a_cell_without_axes_has_the_name_and_settings_of_the_command(tmp_path: Path) -> None:
    (cell,) = suite_of(tmp_path, 'train = {loss = "trades", model = "tiny-cnn", dataset = "digits", eps = 0.1}').cells
    assert cell.run == "trades-tiny-cnn-digits-seed0"
    assert cell.config == TrainConfig(
        loss="trades", model="tiny-cnn", dataset="digits", threat={"norm": "linf", "eps": "0.1"}
    )


def test_keys_whose_value_is_a_list_become_axes_by_lists_of_lists(tmp_path: Path) -> None:
    text = """
    [train]
    recipe = "digits-trades"
    mean = [[0.5], [0.4]]
    std = [0.25]
    schedule = {name = "multi-step", milestones = [2, 3]}
    [[eval]]
    attacks = [["fgsm"], ["pgd:steps=2", "fgsm"]]
    """
    suite = suite_of(tmp_path, text)
    assert [cell.config.mean for cell in suite.trainings] == [(0.5,), (0.4,)]
    assert {cell.config.schedule.milestones for cell in suite.trainings} == {(2, 3)}
    assert {cell.config.attacks for cell in suite.evaluations} == {("fgsm",), ("pgd:steps=2", "fgsm")}


def test_another_loss_leaves_the_options_of_the_recipe_behind(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, '[train]\nrecipe = "trades-awp-cifar10-wrn34-10"\nloss = ["trades", "pgd-at"]')
    options = {cell.config.loss: cell.config.loss_options for cell in suite.trainings}
    assert options == {"trades": {"beta": 9.0}, "pgd-at": {}}


def test_several_tables_are_several_matrices(tmp_path: Path) -> None:
    text = """
    [[train]]
    recipe = "digits-trades"
    seed = [0, 1]
    [[train]]
    recipe = "digits-gkl"
    [[train]]
    recipe = "digits-trades"
    [[eval]]
    attacks = ["fgsm"]
    [[eval]]
    attacks = ["pgd"]
    norm = "l2"
    eps = 0.5
    """
    suite = suite_of(tmp_path, text)
    assert [cell.run for cell in suite.trainings] == [
        "digits-trades-seed0",
        "digits-trades-seed1",
        "digits-gkl-seed0",
    ]
    assert [str(cell.config.threat) for cell in suite.evaluations[:2]] == ["linf 0.1", "l2 0.5"]


def test_assignments_win_over_the_file_and_over_variants(tmp_path: Path) -> None:
    text = """
    [train]
    recipe = "digits-trades"
    [variants.long]
    epochs = 80
    [[eval]]
    attacks = ["fgsm"]
    n = 100
    """
    changes = ["train.epochs=3", "eval.n=[7, 8]", "train.awp.gamma=0.01", "train.awp.start_epoch=2"]
    suite = suite_of(tmp_path, text, assignments=changes)
    assert (suite.trainings[0].config.epochs, suite.trainings[0].config.awp.gamma) == (3, 0.01)
    assert [cell.config.n for cell in suite.evaluations] == [7, 8]


def test_models_are_evaluated_as_they_are(tmp_path: Path, trained: Path) -> None:
    text = 'models = ["tiny"]\n[[eval]]\nattacks = ["fgsm"]\nweights = "last"'
    (cell,) = suite_of(tmp_path, text, checkpoints_dir=trained).evaluations
    assert (cell.run, cell.needs, str(cell.config.threat), cell.config.dataset) == ("tiny", (), "linf 0.1", "digits")
    assert cell.weights == "last"


def test_the_shipped_suites() -> None:
    digits = shipped("digits")
    assert [cell.run for cell in digits.trainings] == ["digits-standard", "digits-trades", "digits-gkl"]
    grid = shipped("cifar10-cnn-a")
    assert len(grid.trainings) == len(grid.evaluations) == 18
    awp = train_config(grid, "gkl-awp-seed2")
    assert (awp.awp.gamma, awp.awp.start_epoch, awp.seed, awp.loss) == (0.005, 8, 2, "gkl")
    plain = train_config(grid, "gkl-seed2")
    assert plain.model_dump(exclude={"awp"}) == awp.model_dump(exclude={"awp"})
    assert plain.awp.gamma == 0


def test_a_suite_is_a_file_or_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits.toml").write_text('[train]\nrecipe = "digits-gkl"\nname = "own"')
    assert [cell.run for cell in read_suite(Path("digits.toml")).trainings] == ["own"]
    assert len(shipped("digits").trainings) == 3
    with pytest.raises(UserError, match=r"unknown suite 'digit'; did you mean 'digits'"):
        shipped("digit")


def shipped(name: str) -> Suite:
    return read_suite(Path(name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has nothing to do"),
        ('trian = {recipe = "digits-gkl"}', "unknown key of .*'trian'; did you mean 'train'"),
        ('[train]\nrecipe = "digits-gk"', "unknown recipe 'digits-gk'; did you mean 'digits-gkl'"),
        ("[train]\nepoch = 3", "train: unknown key 'epoch'; did you mean 'epochs'"),
        ("[train]\nawp.gama = 3", "unknown key of awp 'gama'; did you mean 'gamma'"),
        ('[train]\nepochs = [3, "x"]', "train: epochs: .* got 'x'"),
        ("[train]\nseed = []", "seed is an axis without a value"),
        ('[train]\nseed = [0, 1]\nname = "same"', "both named 'same': they differ in seed"),
        ('[train]\nname = "{sede}"', "unknown key in the name .*'sede'; did you mean 'seed'"),
        ('[train]\nname = "../up"', "a run's name must be letters"),
        ('[train]\n[[eval]]\natacks = ["fgsm"]', "eval: unknown key 'atacks'; did you mean 'attacks'"),
        ('[train]\n[[eval]]\neps = "9"', "eps is in the .0, 1. image scale"),
        ('[train]\n[[eval]]\nweights = "first"', "unknown weights 'first'"),
        ("eval = 3\ntrain = {}", "eval must be a table"),
        ('models = ["no-such"]\n[[eval]]', "no run 'no-such' in checkpoints"),
        ('models = ["no-such"]', r"need an \[\[eval\]\] table"),
        ("[variants.a]\nseed = 1", r"variants of a \[train\] table"),
    ],
)
def test_mistakes_are_said_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        suite_of(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_key_is_refused_if_no_run_has_a_use_for_it(tmp_path: Path) -> None:
    text = """
    [train]
    recipe = "digits-trades"
    averaging.decay = 0.5
    averaging.per = ["none", "epoch"]
    """
    assert len(suite_of(tmp_path, text).trainings) == 2
    with pytest.raises(UserError, match=r"^train: averaging.decay = 0.5 has no effect: averaging.per is none"):
        suite_of(tmp_path, text, assignments=["train.averaging.per=none"])


OUTSIDE = """
models = {models}
[[eval]]
attacks = ["fgsm"]
dataset = "digits"
norm = "linf"
eps = 0.1
{more}
"""


@pytest.mark.parametrize(
    ("models", "more", "says"),
    [
        ('["net.py:build", "other/net.py:build"]', "", "other/net.py:build has the name 'net-build' of another model"),
        (
            '["net.py:build", {model = "net.py:build", mean = [0.5], std = [0.5]}]',
            "",
            "the name 'net-build' of another",
        ),
        ('[{model = "net.py:build", name = "a"}, {model = "other/net.py:build", name = "a"}]', "", "the name 'a'"),
        ('[{model = "some-run", mean = [0.5], std = [0.5]}]', "", "some-run is a run, which has its mean, std inside"),
        ('["net.py:build"]', 'weights = "best"', "weights = best chooses among the weights of a run"),
        ('[{model = "net.py:build", mean = [0.5]}]', "", "together"),
        ('[{model = "net.py:build", meen = [0.5]}]', "", "did you mean 'mean'"),
        ('[{name = "a"}]', "", "needs model = MODEL"),
        ("[3]", "", "models must be a list"),
        ('["absent.py:build"]', "", "no file absent.py"),
    ],
)
def test_models_from_outside_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: str, more: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "net.py").write_text("build = None")
    with pytest.raises(UserError, match=re.escape(says)):
        suite_of(tmp_path, OUTSIDE.format(models=models, more=more))


def test_a_model_from_outside_may_stand_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("build = None")
    models = '["net.py:build", "net.py:build", {model = "net.py:build", name = "half", mean = [0.5], std = [0.5]}]'
    suite = suite_of(tmp_path, OUTSIDE.format(models=models, more=""))
    assert [cell.name for cell in suite.evaluations] == [None, "half"]
