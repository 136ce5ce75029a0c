"""The check ``black-box``: an attack without gradients must not break what attacks with gradients leave.

Where it does, an APGD of 100 steps is run on the same samples. If that leaves them too, the gradients mislead; if it
breaks them, the attacks were too weak.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.core.noise import permutation
from robustbench_gkl.evaluation.checks.attacked import Attacked
from robustbench_gkl.evaluation.checks.finding import RARE, Finding, surely_above
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.meter import Meter
from robustbench_gkl.results.record import StageResult, unpack_standing

MOST_TESTED = 100
"""Samples that Square, or APGD, is run on."""
FEWEST_TESTED = 10
"""Samples below which the test has no power."""
QUERIES = (40, 200)
"""Of Square, at least and at most. Misleading gradients show early. After many queries Square also finds some of what
APGD misses on a sound model: on a net for 8x8 digits 2 of 64 survivors of FGSM within 1,000, and 1 within 200."""
SQUARES_PART = 0.6
"""The part of the budget that Square may take; the rest is APGD's, which costs 400 calls for a sample that stands."""
STEPS = 100
OBJECTIVES = ("margin", "ce")
"""What APGD climbs, the second on what the first leaves.

The margin is what Square climbs, so that the gradient is all that differs, and no scale of the logits flattens it. APGD
on the cross-entropy alone left on sound nets most of the few samples that Square broke (16 of 18, the margin one). It
is the second chance for those whose margin leads into a corner.
"""
EVALUATIONS = 20
"""Gradients averaged per step where the attacks are those for randomised models."""
AGAIN = 3
"""Predictions of each image found. For a success, Square must fool all of them, and APGD one: where logits
are random, doubt favours the model."""
SHORT, LONG = (2 * RARE, 2 * RARE), (RARE, 5 * RARE)
"""Shares of the samples above which, beyond chance, there is a warning and a failure: for Square as short as here, and
for an attack of the protocol, which may have had thousands of queries."""


@dataclass(frozen=True)
class _Plan:
    """How the calls that the protocol took are shared out.

    Attributes:
        samples: how many Square is run on.
        queries: on each.
    """

    samples: int
    queries: int

    @classmethod
    def of(cls, budget: int, left: int) -> _Plan:
        """Return the most samples that can have the fewest queries, and then as many queries as there are calls.

        Args:
            budget: model calls.
            left: samples that the attacks with gradients left.
        """
        least, most = QUERIES
        beside = 2 + AGAIN  # the image itself, the first stripes, and the answers to what was found
        calls = int(SQUARES_PART * budget)
        samples = min(MOST_TESTED, left, calls // (least + beside))
        return cls(samples, min(most, calls // max(samples, 1) - beside))


def black_box(after: Attacked) -> Finding | None:
    """Compare Square, or the protocol's own attack without gradients, with APGD on what attacks with gradients left.

    A protocol of gradient attacks alone is tested by Square. With B its model calls, forwards and backwards, Square
    takes at most 0.6 B: 40 queries on each of up to 100 survivors, or up to 200 queries on each of 100. On those that
    it broke, as many as the rest of B allows, APGD is run with 100 steps on the margin and, on what that leaves, on the
    cross-entropy, which costs at most 422 calls a sample. So the check never takes more than B.

    Where the protocol itself attacked the survivors without gradients, and for as many queries, APGD is run on what
    that broke.

    Returns:
        None where no attack with gradients left anything, where there are no survivors, or where B is too small for ten
        samples (FGSM alone on less than about 300 images, say).
    """
    stages = [stage for attack in after.result.attacks for stage in attack.stages]
    budget = sum(stage.forwards + stage.backwards for stage in stages)
    black, broken = _without_gradients(after.result)
    if all(stage.gradients is False for stage in stages):
        return None
    standing = np.flatnonzero(after.result.standing)
    plan = _Plan.of(budget, len(standing) + len(broken))
    meter = Meter(after.model)
    counted = replace(after, model=meter)
    if any(stage.forwards >= plan.queries * (stage.attacked - stage.broken) for stage in black):
        attacked, names = max(stage.attacked for stage in black), " and ".join(dict.fromkeys(s.name for s in black))
        fell = _still_fooling(counted, _shuffled(after, broken))
        thresholds, what = LONG, names
    elif plan.samples >= FEWEST_TESTED:
        rows = _shuffled(after, np.concatenate([standing, broken]))[: plan.samples]
        attacked, fell = len(rows), _square(counted, rows, plan.queries)
        thresholds, what = SHORT, f"Square with {plan.queries} queries"
    else:
        return None
    left, checked = _left_by_apgd(counted, fell, meter, budget)
    return judged(what, attacked, len(fell), checked, left, thresholds)


def _without_gradients(result: Evaluation) -> tuple[list[StageResult], np.ndarray]:
    """Return the stages without gradients that follow one with gradients, and the rows of the samples they broke."""
    found: list[StageResult] = []
    rows: list[np.ndarray] = []
    before, seen = result.clean_pred == result.label, False
    for attack in result.attacks:
        stands = unpack_standing(attack.standing, result.n) if attack.standing else result.standing
        for stage in attack.stages:
            if stage.gradients is not False:
                seen = True
            elif seen and stage.attacked:
                found.append(stage)
                rows.append(np.flatnonzero(before & ~stands & (result.broken_by == stage.name)))
        before = stands
    return found, np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)


def _shuffled(after: Attacked, rows: np.ndarray) -> Tensor:
    """Return ``rows`` in an order that is independent of the samples."""
    return torch.from_numpy(np.sort(rows))[permutation(after.seed, "verify", "black-box", n=len(rows))]


def _times_fooled(after: Attacked, images: Tensor, rows: Tensor) -> Tensor:
    """Return (n,): how many of a few predictions of each of ``images`` (n, C, H, W) are wrong."""
    return torch.stack([after.margins(images, rows)[0] > 0 for _ in range(AGAIN)]).sum(0)


def _still_fooling(after: Attacked, rows: Tensor) -> Tensor:
    """Return those of ``rows`` whose adversarial image fools each time, and those whose image was not kept."""
    kept = after.result.has_adversarial
    if after.result.adversarial is None or kept is None or not len(rows):
        return rows
    fools = torch.from_numpy(~kept[rows.numpy()])
    there = rows[~fools]
    if len(there):
        fools[~fools] = _times_fooled(after, after.result.adversarial[there], there) == AGAIN
    return rows[fools]


def _square(after: Attacked, rows: Tensor, queries: int) -> Tensor:
    """Return those of ``rows`` that Square breaks."""
    found = after.proposals(parse_attack(f"square:queries={queries}"), rows, after.threat, "black-box")
    return rows[_times_fooled(after, found, rows) == AGAIN]


def _left_by_apgd(after: Attacked, rows: Tensor, meter: Meter, budget: int) -> tuple[int, int]:
    """Run APGD on as many of ``rows`` as the calls allow; return how many of how many it did not break."""
    evaluations = EVALUATIONS if after.randomised else 1
    # For l1 a run asks three times more; the image itself is asked about first, and what was found at the end.
    most = len(OBJECTIVES) * (2 * evaluations * (STEPS + 3) + 2 + AGAIN)
    left = checked = 0
    while (room := min(MOST_TESTED - checked, (budget - meter.forwards - meter.backwards) // most)) > 0:
        part = rows[checked:][: min(room, after.batch_size)]
        if not len(part):
            break
        checked += len(part)
        for objective in OBJECTIVES:
            attack = parse_attack(f"apgd-{objective}:steps={STEPS},restarts=1,evaluations={evaluations}")
            if len(part):
                found = after.proposals(attack, part, after.threat, "black-box")
                part = part[_times_fooled(after, found, part) == 0]
        left += len(part)
    return left, checked


def judged(what: str, attacked: int, broken: int, checked: int, left: int, thresholds: tuple[float, float]) -> Finding:
    """Judge what an attack without gradients found.

    Args:
        what: the attack, and perhaps its length.
        attacked, broken: samples that it was run on, and that it broke.
        checked, left: how many of those APGD was run on, and how many of these it did not break.
        thresholds: shares of ``attacked`` for a warning and for a failure.
    """
    warn, fail = thresholds
    # The samples that those which APGD was run on stand for.
    of = -(-attacked * checked // broken) if broken else attacked
    figure = f"{what} broke {broken} of {attacked} samples that gradient attacks had left"
    if broken:
        figure += f"; {STEPS} steps of APGD leave {left} of {checked} of these"
    if surely_above(warn, left, of):
        advice = (
            "Attack adaptively: the gradients mislead, for an attack without them finds what attacks with them miss."
        )
        return Finding.graded(figure, advice, fail=surely_above(fail, left, of), warn=True)
    advice = "Use stronger attacks, one without gradients among them (--attack autoattack): these were too weak."
    return Finding.graded(figure, advice, fail=False, warn=surely_above(warn, broken, attacked))
