from __future__ import annotations

import math
import warnings
from fractions import Fraction

import pytest
import torch

from robustbench_gkl.config.schema import InnerAttackConfig, ScheduleConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.core.validation import validated
from robustbench_gkl.training.schedule import Place, attack_steps, epoch_threat, learning_rate, momentum

THREAT = ThreatModel("linf", "8/255")


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
    schedule = ScheduleConfig(name="multi-step", milestones=(75, 90, 100))
    expected = [0.1 * (1 if e < 75 else 0.1 if e < 90 else 0.01 if e < 100 else 0.001) for e in range(1, 111)]
    assert rates(schedule, epochs=110, base=0.1) == pytest.approx(expected)


def test_warm_up_grows_linearly_over_steps_whatever_follows() -> None:
    constant = rates(ScheduleConfig(name="constant", warmup=2), epochs=4, steps=5, base=1.0)
    assert constant == pytest.approx([min(1.0, (tick + 1) / 10) for tick in range(20)])
    cosine = rates(ScheduleConfig(name="cosine"), epochs=4, steps=5)
    warmed = rates(ScheduleConfig(name="cosine", warmup=2), epochs=4, steps=5)
    assert warmed == pytest.approx([a * b for a, b in zip(cosine, constant, strict=True)])


def test_momentum_is_the_optimisers_unless_the_cycle_moves_it() -> None:
    assert momentum(ScheduleConfig(name="one-cycle"), base=0.9, place=Place(3, 10)) == 0.9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "multi-step"}, "go together"),
        ({"milestones": [3]}, "go together"),
        ({"name": "multi-step", "milestones": [5, 3]}, "milestones must rise"),
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
