"""Configurations: what is read is what is written, and every mistake is one line."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from robustbench_gkl.config.changes import set_key
from robustbench_gkl.config.files import read_mapping
from robustbench_gkl.config.recipes import read_recipe, recipe_names
from robustbench_gkl.config.schema import EvalConfig, TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import ExactNumber
from robustbench_gkl.core.validation import bind_options, validated
from robustbench_gkl.losses import create_loss


def refused(values: dict[str, Any], *, model: type[TrainConfig] | type[EvalConfig] = TrainConfig) -> str:
    """Return the message with which ``values`` are refused."""
    with pytest.raises(UserError) as caught:
        validated(model, values, what="configuration")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith("configuration: ")
    return message


class TestTrainConfig:
    def test_round_trip_is_exact(self) -> None:
        config = validated(
            TrainConfig,
            {
                "loss_options": {"beta": 5, "gamma": 0.2},
                "threat": {"norm": "l2", "eps": "128/255"},
                "attack": {"step_size": "1/7", "start": "uniform"},
                "optimizer": {"lr": 0.1 + 0.2},
                "mean": [0.1, 0.2, 0.3],
                "std": [1 / 3],
                "train_size": 100,
            },
            what="configuration",
        )
        again = TrainConfig.model_validate_json(config.model_dump_json())
        assert again == config
        assert again.threat.eps == Fraction(128, 255)
        assert again.attack.step_size == Fraction(1, 7)
        assert again.loss_options == {"beta": 5, "gamma": 0.2}
        assert TrainConfig.model_validate(config.model_dump(mode="json")) == config

    @pytest.mark.parametrize(
        ("eps", "exact"), [("8/255", "8/255"), (8 / 255, "8/255"), (0.031, "0.031"), (0.3, "0.3"), (0, "0"), (1, "1")]
    )
    def test_eps_is_exact(self, eps: object, exact: str) -> None:
        config = validated(TrainConfig, {"threat": {"eps": eps}}, what="configuration")
        assert config.model_dump(mode="json")["threat"]["eps"] == exact
        assert str(config.threat.threat()) == f"linf {exact}"

    def test_is_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            TrainConfig().epochs = 3  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"epoch": 3}, r"unknown key 'epoch'; did you mean 'epochs'\? \(choose from attack, .*\)"),
            (
                {"attack": {"stepz": 3}},
                r"unknown key of attack 'stepz'; did you mean 'steps'\? \(choose from budget, fold, ramp, start, ",
            ),
            ({"epochs": 0}, "epochs: .* got 0"),
            ({"epochs": "many"}, "epochs: .*integer.* got 'many'"),
            ({"epochs": 2.5}, "epochs: .*integer.* got 2.5"),
            ({"batch_size": 1}, "batch_size"),
            ({"optimizer": {"lr": -1}}, "optimizer.lr: .*greater than 0"),
            ({"optimizer": {"lr": float("inf")}}, "optimizer.lr: .*finite"),
            ({"optimizer": {"weight_decay": float("nan")}}, "optimizer.weight_decay"),
            ({"optimizer": {"momentum": 1}}, "optimizer.momentum"),
            ({"optimizer": 3}, "optimizer"),
            ({"schedule": {"name": "sine"}}, "schedule.name: .*'constant', 'cosine'"),
            ({"threat": {"norm": "l3"}}, "threat.norm: unknown norm 'l3'"),
            ({"threat": {"eps": 8}}, r"threat: .*\[0, 1\] image scale.* 8/255"),
            ({"threat": {"eps": "-1/255"}}, "threat.eps: .*negative"),
            ({"threat": {"eps": "eight"}}, "threat.eps: .*number such as 8/255.* 'eight'"),
            ({"threat": {"eps": None}}, "threat.eps: .*number"),
            ({"threat": {"eps": [0.1]}}, "threat.eps: .*number"),
            ({"attack": {"steps": 0}}, "attack.steps"),
            ({"attack": {"step_size": "x"}}, "attack.step_size: .*number"),
            ({"attack": {"start": "here"}}, "attack.start"),
            ({"validation_fraction": 1}, "validation_fraction"),
            ({"seed": -1}, "seed"),
            ({"mean": ["a"]}, "mean.0"),
            ({"loss_options": 3}, "loss_options"),
            ({"dataset": 3}, "dataset"),
            ({"dataset": ["x" * 5000]}, "dataset"),
            ({"attack": dict.fromkeys("abcdefg", 1)}, "; and 2 more$"),
            ({"optimizer": {"lr": True}}, "optimizer.lr: must be a number, got True"),
            ({"epochs": True}, "epochs: must be a number, got True"),
            ({"schedule": {"name": "multi-step", "milestones": [True, 3]}}, r"schedule.milestones: must be a number"),
            ({"threat": {"eps": True}}, "threat.eps: .*number"),
        ],
    )
    def test_errors(self, values: dict[str, Any], says: str) -> None:
        assert re.search(says, refused(values))


def test_eval_config_errors() -> None:
    assert "dataset: is missing" in refused({}, model=EvalConfig)
    assert "n: " in refused({"dataset": "digits", "n": 0}, model=EvalConfig)
    for key in ("n", "seed", "batch_size"):
        assert f"{key}: must be a number, got True" in refused({"dataset": "digits", key: True}, model=EvalConfig)
    assert "engine: " in refused({"dataset": "digits", "engine": "turbo"}, model=EvalConfig)


class TestBindOptions:
    @staticmethod
    def factory(
        size: int,
        steps: Annotated[int, Field(ge=1)] = 3,
        rate: float = 0.5,
        step_size: ExactNumber | None = None,
        flag: bool = False,
    ) -> dict[str, object]:
        return {"size": size, "steps": steps, "rate": rate, "step_size": step_size, "flag": flag}

    def test_text_becomes_the_annotated_type(self) -> None:
        options = {"steps": "20", "rate": "1e-3", "step_size": "2/255", "flag": "true"}
        found = bind_options(self.factory, options, what="thing", size=1)
        assert found == {"size": 1, "steps": 20, "rate": 1e-3, "step_size": Fraction(2, 255), "flag": True}

    def test_defaults_stay(self) -> None:
        assert bind_options(self.factory, {}, what="thing", size=1)["steps"] == 3

    def test_classes_are_bound_by_their_constructor(self) -> None:
        class Thing:
            def __init__(self, *, num_classes: int, beta: float = 6.0) -> None:
                self.beta = beta

        assert bind_options(Thing, {"beta": "2"}, what="thing", num_classes=3).beta == 2.0

    def test_open_factories_get_the_rest_as_it_is(self) -> None:
        def open_factory(name: str, steps: int = 1, **options: object) -> tuple[int, dict[str, object]]:
            return steps, options

        assert bind_options(open_factory, {"steps": "2", "x": "3"}, what="thing", name="a") == (2, {"x": "3"})

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"stepz": 1}, "unknown option of thing 'stepz'; did you mean 'steps'"),
            ({"size": 2}, "unknown option of thing 'size'"),
            ({"steps": "many"}, "thing, option steps: .*integer.* 'many'"),
            ({"steps": "0"}, "thing, option steps: .*greater than or equal to 1"),
            ({"steps": "2.5"}, "thing, option steps"),
            ({"rate": "fast"}, "thing, option rate"),
            ({"rate": "inf"}, "thing, option rate: .*finite"),
            ({"rate": float("nan")}, "thing, option rate: .*finite"),
            ({"step_size": "8//255"}, "thing, option step_size: .*number such as 8/255"),
            ({"step_size": "-1"}, "thing, option step_size: .*negative"),
            ({"flag": "perhaps"}, "thing, option flag"),
        ],
    )
    def test_errors(self, options: dict[str, object], says: str) -> None:
        with pytest.raises(UserError, match=says) as caught:
            bind_options(self.factory, options, what="thing", size=1)
        assert "\n" not in str(caught.value)


class TestSetKey:
    @pytest.mark.parametrize(
        ("assignment", "expected"),
        [
            ("epochs=3", {"epochs": 3}),
            ("optimizer.lr=0.05", {"optimizer": {"lr": 0.05, "nesterov": False}}),
            ("threat.eps=8/255", {"threat": {"eps": "8/255"}}),
            ("threat.norm=l2", {"threat": {"norm": "l2"}}),
            ('dataset="npz:a=b.npz"', {"dataset": "npz:a=b.npz"}),
            ("dataset=npz:a=b.npz", {"dataset": "npz:a=b.npz"}),
            (" epochs = 3 ", {"epochs": 3}),
            ("optimizer.nesterov=true", {"optimizer": {"nesterov": True}}),
            ("mean=[0.5, 0.5]", {"mean": [0.5, 0.5]}),
            ("loss_options.beta=5", {"loss_options": {"beta": 5}}),
            ("recipe=", {"recipe": ""}),
        ],
    )
    def test_values(self, assignment: str, expected: dict[str, object]) -> None:
        values: dict[str, Any] = {"epochs": 1, "optimizer": {"nesterov": False}}
        set_key(values, assignment)
        assert values == {"epochs": 1, "optimizer": {"nesterov": False}} | expected

    @pytest.mark.parametrize(
        ("assignment", "says"),
        [
            ("epochs", "--set needs key=value, .* got 'epochs'"),
            ("=3", "--set needs key=value"),
            ("", "--set needs key=value"),
            ("epochs.x=3", "--set epochs.x: epochs is not a table"),
        ],
    )
    def test_errors(self, assignment: str, says: str) -> None:
        with pytest.raises(UserError, match=says):
            set_key({"epochs": 1}, assignment)


class TestRecipes:
    @pytest.mark.parametrize("name", recipe_names())
    def test_each_shipped_recipe_is_valid(self, name: str) -> None:
        config = validated(TrainConfig, read_recipe(name), what=f"recipe {name}")
        create_loss(config.loss, num_classes=10, options=config.loss_options)

    def test_the_demonstration_is_shipped(self) -> None:
        assert {"digits-standard", "digits-trades", "digits-gkl"} <= set(recipe_names())

    def test_unknown(self) -> None:
        with pytest.raises(UserError, match="unknown recipe 'digits-glk'; did you mean 'digits-gkl'"):
            read_recipe("digits-glk")

    @pytest.mark.parametrize(
        ("name", "text"),
        [("a.toml", 'epochs = 3\n[threat]\neps = "8/255"\n'), ("a.json", '{"epochs": 3, "threat": {"eps": "8/255"}}')],
    )
    def test_files(self, tmp_path: Path, name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        assert read_recipe(str(tmp_path / name)) == {"epochs": 3, "threat": {"eps": "8/255"}}

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("a.toml", b"epochs = = 3", "a.toml is not valid TOML"),
            ("a.json", b'{"epochs": 3', "a.json is not valid JSON"),
            ("a.json", b"", "a.json is not valid JSON"),
            ("a.json", b"[1, 2]", "a.json must hold one table of keys, got list"),
            ("a.toml", b"\xff\xfe\x00", "a.toml is not valid TOML"),
            ("a.json", b"[" * 100_000, "a.json is not valid JSON"),
        ],
    )
    def test_broken_files(self, tmp_path: Path, name: str, content: bytes, says: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=says) as caught:
            read_mapping(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_absent_files_and_folders(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"cannot read .*none\.toml: No such file"):
            read_recipe(str(tmp_path / "none.toml"))
        (tmp_path / "folder.toml").mkdir()
        with pytest.raises(UserError, match=r"cannot read .*folder\.toml: Is a directory"):
            read_recipe(str(tmp_path / "folder.toml"))
