"""Names of runs that were given none."""

from __future__ import annotations

import pytest

from robustbench_gkl.config.names import check_name, run_name
from robustbench_gkl.config.schema import TrainConfig


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"model": "tiny-cnn"}, "trades-tiny-cnn-digits-seed0"),
        ({"model": "timm:resnet18"}, "trades-timm-resnet18-digits-seed0"),
        ({"model": "timm:resnet50.a1_in1k"}, "trades-timm-resnet50.a1_in1k-digits-seed0"),
        ({"loss": "my loss/2"}, "my-loss-2-tiny-cnn-digits-seed0"),
        ({"loss": ".hidden"}, "hidden-tiny-cnn-digits-seed0"),
        ({"dataset": "npz:/data/my set.npz"}, "trades-tiny-cnn-my-set-seed0"),
        ({"recipe": "my recipe"}, "my-recipe-seed0"),
        ({"recipe": "--"}, "run-seed0"),
    ],
)
def test_whatever_the_settings_are_called_the_name_is_legal(settings: dict[str, str], name: str) -> None:
    config = TrainConfig.model_validate({"loss": "trades", "model": "tiny-cnn", "dataset": "digits"} | settings)
    assert run_name(config) == check_name(name)


def test_long_names_are_cut_and_stay_apart() -> None:
    names = [
        run_name(TrainConfig(loss="trades", model="m" * 300 + end, dataset="digits", seed=7), "eps8-255")
        for end in "ab"
    ]
    assert len(set(names)) == 2
    for name in names:
        assert check_name(name).endswith("-eps8-255-seed7")
