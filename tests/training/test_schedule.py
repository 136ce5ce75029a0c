from __future__ import annotations

import json
import math
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from robustbench_gkl.config.files import to_toml
from robustbench_gkl.config.recipes import read_recipe
from robustbench_gkl.config.schema import InnerAttackConfig, ScheduleConfig, TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.core.validation import validated
from robustbench_gkl.runs import Run, RunConfig
from robustbench_gkl.training.schedule import Place, attack_steps, epoch_threat, learning_rate, momentum

THREAT = ThreatModel("linf", "8/255")
FILES = ("config.json", "exported.toml")


def rates(schedule: ScheduleConfig, *, epochs: int, steps: int = 1, base: float = 0.2) -> list[float]:
    places = [Place(epoch, epochs, step, steps) for epoch in range(epochs) for step in range(steps)]
    return [learning_rate(schedule, base=base, place=place) for place in places]


def test_cosine_by_epoch_is_the_published_formula() -> None:
    expected = [0.2 * 0.5 * (1 + math.cos((epoch - 1) / 200 * math.pi)) for epoch in range(1, 201)]
    assert rates(ScheduleConfig(name="cosine"), epochs=200) == pytest.approx(expected)


def test_cosine_by_step_advances_within_an_epoch() -> None:
    expected = [0.2 * 0.5 * (1 + math.cos(tick / 15 * math.pi)) for tick in range(15)]
    assert rates(ScheduleConfig(name="cosine", per="step"), epochs=3, steps=5) == pytest.approx(expected)


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize(("total", "pct_start"), [(400, 0.025), (40, 0.3), (200, 0.25), (100, 0.01)])
def test_one_cycle_is_torchs(total: int, pct_start: float, per: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    if pct_start * total == 1:
        pytest.skip("torch divides by zero where the peak is at the first step")
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=total, pct_start=pct_start)
    schedule = ScheduleConfig.model_validate(
        {"name": "one-cycle", "per": per, "pct_start": pct_start, "momentum_range": [0.85, 0.95]}
    )
    for tick in range(total):
        place = Place(tick, total) if per == "epoch" else Place(tick // 4, total // 4, tick % 4, 4)
        group = optimizer.param_groups[0]
        assert learning_rate(schedule, base=0.2, place=place) == pytest.approx(group["lr"], rel=1e-9)
        assert momentum(schedule, base=0.9, place=place) == pytest.approx(group["momentum"], rel=1e-9)
        if tick < total - 1:
            with warnings.catch_warnings():  # that the optimiser has not stepped
                warnings.simplefilter("ignore")
                cycle.step()


def test_milestones_are_those_of_trades() -> None:
    schedule = validated(TrainConfig, read_recipe("trades-cifar10-wrn34-10"), what="recipe").schedule
    expected = [0.1 * (1 if e < 75 else 0.1 if e < 90 else 0.01 if e < 100 else 0.001) for e in range(1, 111)]
    assert rates(schedule, epochs=110, base=0.1) == pytest.approx(expected)


def test_milestones_are_torchs_and_mdistillers() -> None:
    """``epoch > stages`` there, with epochs counted from 1: after 150 the rate is that of epoch 151 on."""
    stages = (150, 180, 210)
    found = rates(ScheduleConfig(name="multi-step", milestones=stages), epochs=240, base=0.05)
    assert found == pytest.approx([0.05 * 0.1 ** sum(epoch > stage for stage in stages) for epoch in range(1, 241)])
    assert (found[149], found[150]) == pytest.approx((0.05, 0.005))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=list(stages))
    for rate in found:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        with warnings.catch_warnings():  # that the optimiser has not stepped
            warnings.simplefilter("ignore")
            steps.step()


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("warmup", [2, 0.5, 3])
def test_warm_up_comes_before_the_schedule_and_reaches_its_peak(warmup: float, per: str) -> None:
    values = {"name": "cosine", "per": per, "warmup": warmup}
    found = rates(validated(ScheduleConfig, values, what="schedule"), epochs=6, steps=4, base=0.2)
    last = int(4 * warmup)
    assert found[:last] == pytest.approx([0.2 * (tick + 1) / last for tick in range(last)])
    assert max(found) == found[last - 1] == 0.2
    for tick in range(last, 24):
        since = (tick if per == "step" else 4 * (tick // 4)) - last
        assert found[tick] == pytest.approx(0.1 * (1 + math.cos(math.pi * max(0, since) / (24 - last))))


def test_warm_up_grows_linearly_whatever_follows() -> None:
    expected = [min(1.0, (tick + 1) / 10) for tick in range(20)]
    assert rates(ScheduleConfig(name="constant", warmup=2), epochs=4, steps=5, base=1.0) == pytest.approx(expected)
    steps = rates(ScheduleConfig(name="multi-step", milestones=(1, 3), warmup=2), epochs=4, steps=5, base=1.0)
    lowered = [0.1 ** ((tick >= 5) + (tick >= 15)) for tick in range(20)]
    assert steps == pytest.approx([a * b for a, b in zip(expected, lowered, strict=True)])


def test_a_run_shorter_than_its_warm_up_only_rises() -> None:
    assert rates(ScheduleConfig(warmup=4), epochs=2, base=1.0) == pytest.approx([0.25, 0.5])


class TestVersion01:
    """Runs, records and recipe files of version 0.1 keep the rates that they were started with."""

    SCHEDULES: ClassVar[list[dict[str, Any]]] = [
        {"name": "multi-step", "milestones": [3, 5], "warmup": 0.0},
        {"name": "multi-step", "milestones": [1, 4], "warmup": 2.0},
        {"name": "cosine", "milestones": [], "warmup": 2.0},
        {"name": "one-cycle", "milestones": [], "warmup": 1.5, "pct_start": 0.3},
    ]

    def former(self, schedule: dict[str, Any], *, epochs: int = 6, steps: int = 4) -> list[float]:
        """Return the rates as that version computed them: a factor on a schedule counted from the first step."""
        bare = schedule | {"warmup": 0.0, "milestones": [first - 1 for first in schedule["milestones"]]}
        plain = rates(validated(ScheduleConfig, bare, what="schedule"), epochs=epochs, steps=steps)
        warmup = schedule["warmup"] * steps or 1
        return [rate * min(1.0, (tick + 1) / warmup) for tick, rate in enumerate(plain)]

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_run_goes_on_as_it_began(self, schedule: dict[str, Any], tmp_path: Path) -> None:
        train = {"schedule": {"per": "epoch", "factor": 0.1, **schedule}, "optimizer": {"decay_batchnorm": False}}
        saved = {"name": "old", "arch": "tiny-cnn", "num_classes": 10, "input_shape": [1, 8, 8], "dataset": "digits"}
        saved |= {"train": train, "created": "2026-01-01", "environment": {}}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(saved))
        (tmp_path / "exported.toml").write_text(to_toml(train))
        run = Run(tmp_path).config().train
        assert run is not None
        again = RunConfig.model_validate_json(Run(tmp_path).config().model_dump_json()).train
        recipes = [validated(TrainConfig, read_recipe(str(tmp_path / name)), what=name) for name in FILES]
        for config in (run, again, *recipes):
            assert config is not None
            assert rates(config.schedule, epochs=6, steps=4) == pytest.approx(self.former(schedule))
            assert config.optimizer.no_decay == "batchnorm"
            assert config == run

    def test_a_recipe_of_today_is_left_as_it_is(self, tmp_path: Path) -> None:
        values = {"schedule": {"name": "multi-step", "milestones": [3, 5]}}
        (tmp_path / "new.toml").write_text(to_toml(values))
        assert read_recipe(str(tmp_path / "new.toml")) == values


def test_momentum_is_the_optimisers_unless_the_cycle_moves_it() -> None:
    assert momentum(ScheduleConfig(name="one-cycle"), base=0.9, place=Place(3, 10)) == 0.9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "multi-step"}, "go together"),
        ({"milestones": [3]}, "go together"),
        ({"name": "multi-step", "milestones": [5, 3]}, "milestones must rise"),
        ({"name": "one-cycle", "warmup": 2}, "rises by itself; set pct_start"),
        ({"momentum_range": [0.8, 0.9]}, "belongs to the schedule 'one-cycle'"),
        ({"name": "cosin"}, "name: .*cosine"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validated(ScheduleConfig, values, what="schedule")


def test_the_radius_grows_to_eps_exactly() -> None:
    attack = InnerAttackConfig(ramp=1.0)
    radii = [epoch_threat(attack, THREAT, epoch=epoch, epochs=200).eps for epoch in range(200)]
    assert radii == [Fraction(8, 255) * Fraction(epoch, 200) for epoch in range(1, 201)]
    half = [epoch_threat(InnerAttackConfig(ramp=0.5), THREAT, epoch=e, epochs=8).eps for e in range(8)]
    assert half == [Fraction(8, 255) * min(Fraction(1), Fraction(e, 4)) for e in range(1, 9)]
    assert epoch_threat(InnerAttackConfig(), THREAT, epoch=0, epochs=8) == THREAT


def published_high(epoch: int, epochs: int) -> tuple[int, Fraction]:
    """The documented budget, with epochs counted from 1."""
    quarter = next(number for number in (1, 2, 3, 4) if epoch * 4 <= number * epochs)
    return {1: (2, Fraction(1)), 2: (3, Fraction(2, 3)), 3: (4, Fraction(1, 2)), 4: (5, Fraction(1, 2))}[quarter]


@pytest.mark.parametrize("epochs", [200, 100, 4, 1, 7])
def test_budgets_are_those_of_the_paper_and_of_its_code(epochs: int) -> None:
    for epoch in range(epochs):
        got = {
            budget: attack_steps(
                InnerAttackConfig.model_validate({"budget": budget}), THREAT, epoch=epoch, epochs=epochs
            )
            for budget in ("low", "high", "high-as-run")
        }
        assert got["low"] == (2, 8 / 255)
        assert got["high-as-run"] == (5, 4 / 255)
        steps, share = published_high(epoch + 1, epochs)
        assert got["high"] == (steps, float(share * Fraction(8, 255)))


def test_a_fixed_budget_takes_the_given_steps() -> None:
    assert attack_steps(InnerAttackConfig(), THREAT, epoch=0, epochs=1) == (10, 2 / 255)
    attack = InnerAttackConfig.model_validate({"steps": 7, "step_size": "2/255"})
    assert attack_steps(attack, THREAT, epoch=0, epochs=1) == (7, 2 / 255)
    with pytest.raises(UserError, match="sets steps and step_size itself"):
        validated(InnerAttackConfig, {"budget": "low", "steps": 3}, what="attack")
