"""What changes over a run by plan: learning rate, momentum, radius and attack, as pure functions of the progress."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

from robustbench_gkl.attacks.specs.pgd import default_step_size
from robustbench_gkl.config.schema import InnerAttackConfig, ScheduleConfig
from robustbench_gkl.core.threat import ThreatModel


@dataclass(frozen=True)
class Place:
    """Where a run stands: before step ``step`` of ``steps`` in epoch ``epoch`` of ``epochs``, all counted from 0."""

    epoch: int
    epochs: int
    step: int = 0
    steps: int = 1


def learning_rate(schedule: ScheduleConfig, *, base: float, place: Place) -> float:
    """Return the learning rate at ``place`` of a schedule whose peak is ``base``."""
    rate = base * _warmup(schedule, place)
    tick, ticks = _after_warmup(schedule, place)
    if schedule.name == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * tick / ticks))
    if schedule.name == "one-cycle":
        return rate * _one_cycle(tick, ticks, pct_start=schedule.pct_start, ends=(1 / 25, 1.0, 1 / 250_000))
    if schedule.name == "multi-step":
        return rate * schedule.factor ** bisect_right(schedule.milestones, place.epoch)
    return rate


def momentum(schedule: ScheduleConfig, *, base: float, place: Place) -> float:
    """Return the momentum at ``place``: ``base``, unless a one-cycle schedule moves it against the learning rate."""
    if schedule.momentum_range is None:
        return base
    low, high = schedule.momentum_range
    return _one_cycle(*_after_warmup(schedule, place), pct_start=schedule.pct_start, ends=(high, low, high))


def _after_warmup(schedule: ScheduleConfig, place: Place) -> tuple[float, float]:
    """Return how many epochs or steps of how many are over since the warm-up ended; 0 while it lasts."""
    length = 1 if schedule.per == "epoch" else place.steps
    warmup = schedule.warmup * length if schedule.warmup_kind == "before" else 0
    done = place.epoch if schedule.per == "epoch" else place.epoch * place.steps + place.step
    left = place.epochs * length - warmup
    return max(0, done - warmup), left if left > 0 else 1


def _warmup(schedule: ScheduleConfig, place: Place) -> float:
    done = place.epoch * place.steps + place.step + 1
    return min(1.0, done / (schedule.warmup * place.steps)) if schedule.warmup else 1.0


def _one_cycle(tick: float, ticks: float, *, pct_start: float, ends: tuple[float, float, float]) -> float:
    """Return torch's OneCycleLR at ``tick``: half a cosine between the first two of ``ends``, one to the last."""
    start, peak, end = ends
    turn = pct_start * ticks - 1
    if turn > 0 and tick <= turn:
        return _half_cosine(start, peak, tick / turn)
    return _half_cosine(peak, end, (tick - turn) / (ticks - 1 - turn))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def epoch_threat(attack: InnerAttackConfig, threat: ThreatModel, *, epoch: int, epochs: int) -> ThreatModel:
    """Return the threat model trained for in ``epoch`` (from 0) of ``epochs``: a smaller radius while eps ramps up."""
    if attack.ramp == 0:
        return threat
    share = Fraction(epoch + 1) / (Fraction(repr(attack.ramp)) * epochs)
    return threat.with_eps(threat.eps * min(Fraction(1), share))


_HIGH = {2: Fraction(1), 3: Fraction(2, 3), 4: Fraction(1, 2), 5: Fraction(1, 2)}
"""The length of a step in units of eps_t for each number of steps of the budget ``high``."""


def attack_steps(attack: InnerAttackConfig, threat: ThreatModel, *, epoch: int, epochs: int) -> tuple[int, float]:
    """Return number and length of the training attack's steps.

    Args:
        attack: names the budget.
        threat: that of the epoch.
        epoch, epochs: where the run stands, from 0.
    """
    steps = attack.steps_in(epoch, epochs)
    if attack.budget == "fixed":
        return steps, float(attack.step_size or default_step_size(threat, steps))
    if attack.budget == "high":
        share = _HIGH[steps]
    else:
        share = Fraction(1) if attack.budget == "low" else Fraction(1, 2)
    return steps, float(share * threat.eps)
