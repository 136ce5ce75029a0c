"""Branch and bound over the phases of ReLUs (Bunel et al., arXiv 1909.06588; beta-CROWN, arXiv 2103.06624).

A problem whose bound is not positive is split into two, in which a ReLU is on, and off. Its margin at the minimiser of
the linear bound exceeds the bound by the sum of what the lines give away at each ReLU; those that give away most are
tried, and the one whose worse half is best is split. The minimisers are candidates of an attack on the way.

A problem whose ReLUs are all split is left where its steps no longer make its bound better: its margin is too close to
zero, or [0, 1] cuts its ball, which bounds for norms other than linf make no use of. The sample is not proved then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_gkl.certification import descent
from robustbench_gkl.certification.crown import Lines
from robustbench_gkl.certification.descent import Points
from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.operations import Interval
from robustbench_gkl.certification.problems import Problems, improved
from robustbench_gkl.core.noise import Noise

CHILDREN = 64
"""Problems that are bounded at a time."""
STEPS = 8
"""Gradient steps of each, from what its parent has found."""
TRIED = 3
"""ReLUs that are tried before one is split."""
MOST_OPEN = 4096
"""Problems that wait; where there are more, the easiest are taken first and not the hardest, to be done with them."""
ALONE = 5_000
"""Calls that branch and bound has for itself: most samples that it proves take fewer."""
SHARE = 2
"""Of all calls after these the attack gets one in so many."""
STALLED = 1e-6
"""What the steps of a problem without an unstable ReLU must add to its bound; where they do not,"""
LAST_STEPS = 120
"""so many are taken, down to a rate of a thousandth: its multipliers may be between two steps."""
_FALLBACK = 1e-6
"""Weight of what a ReLU's lines could give away at most, where none gives anything away."""


@dataclass
class Budget:
    """What may be spent on one sample, and what has been.

    Attributes:
        seconds: of the processor's time; None for no limit.
        calls: rows that are taken back through the network, and gradients of these; None for no limit.
    """

    seconds: float | None = None
    calls: int | None = None
    spent_calls: int = 0
    spent_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.process_time()

    def spend(self, calls: int) -> None:
        """Count ``calls`` and the time until now."""
        self.spent_calls += calls
        now = time.process_time()
        self.spent_seconds, self._began = self.spent_seconds + now - self._began, now

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.seconds is not None or self.calls is not None

    @property
    def over(self) -> bool:
        """Whether it is spent."""
        late = self.seconds is not None and self.spent_seconds >= self.seconds
        return late or (self.calls is not None and self.spent_calls >= self.calls)


class Searched(NamedTuple):
    """The outcome of branch and bound for one sample: proved, broken by ``image`` (C, H, W), or neither."""

    proved: bool
    image: Tensor | None = None


def branch_and_bound(
    network: Network,
    problems: Problems,
    bound: Tensor,
    *,
    budget: Budget,
    noise: Noise,
    proves: Callable[[Problems, Tensor], Tensor],
    fools: Callable[[Tensor], bool],
    enough: float,
    stop: Callable[[], bool] = lambda: False,
) -> Searched:
    """Prove that all margins of a sample are positive, or find an image in its ball where one is not.

    Args:
        network: the network.
        problems: the margins that are not proved yet, (N,).
        bound: (N,), of these.
        budget: when to give up.
        noise: the sample's random numbers, for the attack beside.
        proves: problems and their bounds (N,) to (N,) bool, whether these are positive for certain.
        fools: an image (C, H, W) at which a margin is negative by this network to whether it counts as adversarial.
        enough: the bound of which that may be expected.
        stop: asked on the way whether to give up before the budget is spent.
    """
    open_: list[tuple[float, Problems]] = [
        (float(value), problems[torch.tensor([row], device=bound.device)]) for row, value in enumerate(bound)
    ]
    attack = _Attack(network, problems, budget, noise, fools)
    image, stalled = attack.quick(), False
    while image is None and (open_ or (stalled and budget.limited)):
        if budget.over or stop():
            return Searched(proved=False)
        if not open_:  # the attack has what is left
            image = attack.round()
            continue
        if (image := attack.due()) is not None:
            break
        open_.sort(key=lambda entry: -entry[0])
        place = -1 if len(open_) <= MOST_OPEN else 0
        values, problem = zip(*(open_.pop(place) for _ in range(min(len(open_), CHILDREN // 2))), strict=True)
        parents = _joined(problem)
        image, scores = _examined(network, parents, attack)
        budget.spend(2 * len(parents))
        if image is not None:
            break
        children, before, tried = _split(network, parents, bound.new_tensor(values), scores)
        budget.spend(tried)
        children, found = improved(network, children, steps=STEPS, enough=enough)
        budget.spend((2 * STEPS + 1) * len(children))
        left = ~proves(children, found)
        goes_on = found > before + STALLED
        for row in (left & goes_on).nonzero().flatten():
            open_.append((float(found[row]), children[row[None]]))
        if bool((last := left & ~goes_on).any()):
            children, found = improved(network, children[last], steps=LAST_STEPS, enough=enough)
            budget.spend((2 * LAST_STEPS + 1) * len(children))
            stalled |= not bool(proves(children, found).all())
    return Searched(proved=image is None and not stalled, image=image)


class _Attack:
    """The attack beside branch and bound, which also starts where linear bounds were least since its last round."""

    def __init__(
        self, network: Network, problems: Problems, budget: Budget, noise: Noise, fools: Callable[[Tensor], bool]
    ) -> None:
        self.network, self.problems, self.budget, self.noise, self.fools = network, problems, budget, noise, fools
        self._rounds = 0
        self._given = self._kept = Points.none(problems)

    def quick(self) -> Tensor | None:
        """Return an adversarial image (C, H, W) that a short search finds, before all else."""
        ends, calls = descent.quick_round(self.network, self.problems, self.noise.at("quick"))
        self.budget.spend(calls)
        return self._adversarial(ends)

    def due(self) -> Tensor | None:
        """Return an adversarial image (C, H, W) that a round finds, if its share of the calls is due."""
        waits = self.budget.spent_calls <= ALONE + SHARE * self._rounds * descent.CALLS
        return None if waits else self.round()

    def round(self) -> Tensor | None:
        """Return an adversarial image (C, H, W) that a round finds."""
        ends = descent.search_round(
            self.network, self.problems, self._given, self._kept, self.noise.at("round", self._rounds)
        )
        self._given = Points.none(self.problems)
        self._kept = self._kept.lowest(descent.KEPT, ends, apart=descent.APART)
        self.budget.spend(descent.CALLS)
        self._rounds += 1
        return self._adversarial(ends)

    def low(self, minimisers: Points) -> Tensor | None:
        """Return one of the minimisers of linear bounds if it is adversarial; else start from the lowest later."""
        if (image := self._adversarial(minimisers)) is not None:
            return image
        self._given = self._given.lowest(descent.STARTS // 2, minimisers)
        return None

    def _adversarial(self, points: Points) -> Tensor | None:
        low = points.images[points.margins <= 0]  # of two equal logits the model may take either
        return next((image for image in low if self.fools(image)), None)


@torch.no_grad()
def _examined(network: Network, problems: Problems, attack: _Attack) -> tuple[Tensor | None, dict[int, Tensor]]:
    """Return an adversarial image among the minimisers, if one is, and what each ReLU's lines give away there."""
    found = problems.bounded(network, keep=True)
    images = problems.region.minimiser(found.pixels.values)
    values = network.values(images)
    margins = (values[-1] * problems.rows).sum(1)
    if (image := attack.low(Points(images, problems.rows, margins))) is not None:
        return image, {}
    scores = {}
    for relu, bounds in problems.bounds.items():
        lines, slope, row = Lines.of(bounds), problems.slopes[relu], found.at[relu]
        z = values[network.steps[relu].inputs[0]]
        on = z.clamp_min(0)
        below, above = on - slope * z, lines.upper * z + lines.intercept - on
        given = torch.where(row > 0, row * below, -row * above) + _FALLBACK * row.abs() * lines.intercept
        scores[relu] = given.where(lines.unstable, -torch.inf).flatten(1)
    return None, scores


def _split(
    network: Network, parents: Problems, bound: Tensor, scores: dict[int, Tensor]
) -> tuple[Problems, Tensor, int]:
    """Return both halves of each problem, what their bounds (M,) must exceed, and how many were bounded to choose.

    Problems without an unstable ReLU are returned as they are, with their ``bound``: better multipliers may do.
    """
    relus = list(scores)
    sizes = [scores[relu].shape[1] for relu in relus]
    none = parents.rows.new_full((len(parents), TRIED), -torch.inf)  # there may be fewer ReLUs than are tried
    best = torch.cat([*(scores[relu] for relu in relus), none], dim=1).topk(TRIED, dim=1)
    splits = best.values[:, 0] > -torch.inf
    whole, before = parents[~splits], bound[~splits]
    if not bool(splits.any()):
        return whole, before, 0
    # Where fewer are unstable, the first is tried again.
    places = torch.where(best.values > -torch.inf, best.indices, best.indices[:, :1])[splits]
    parents = parents[splits]
    rows = torch.arange(len(parents), device=places.device).repeat_interleave(TRIED)
    halves = [_assuming(network, parents[rows], relus, sizes, places.flatten(), phase) for phase in (1, -1)]
    with torch.no_grad():
        worse = torch.minimum(*(half.bounded(network).bound for half in halves)).reshape(-1, TRIED)
    chosen = worse.argmax(1) + TRIED * torch.arange(len(parents), device=places.device)
    children = _joined([*(half[chosen] for half in halves), whole])
    nothing = before.new_full((2 * len(chosen),), -torch.inf)
    return children, torch.cat([nothing, before]), 2 * len(rows)


def _assuming(
    network: Network, problems: Problems, relus: list[int], sizes: list[int], places: Tensor, phase: int
) -> Problems:
    """Return the problems with one more assumption each, at ``places`` (N,) in the ReLUs of all layers in a row."""
    bounds, phases, multipliers = dict(problems.bounds), dict(problems.phases), dict(problems.multipliers)
    start = 0
    for relu, size in zip(relus, sizes, strict=True):
        here = ((places >= start) & (places < start + size)).nonzero().flatten()
        at, start = places[here] - start, start + size
        if not len(here) and relu not in phases:
            continue
        low, high = bounds[relu].low, bounds[relu].high
        if relu not in phases:
            phases[relu], multipliers[relu] = torch.zeros_like(low), torch.zeros_like(low)
        if len(here):
            assumed = phases[relu].flatten(1).clone()
            assumed[here, at] = phase
            phases[relu] = assumed.reshape(low.shape)
            end = (low if phase == 1 else high).flatten(1).clone()
            end[here, at] = 0
            end = end.reshape(low.shape)
            bounds[relu] = Interval(end, high) if phase == 1 else Interval(low, end)
    return replace(problems, bounds=bounds, phases=phases, multipliers=multipliers)


def _joined(parts: Sequence[Problems]) -> Problems:
    """Return the problems of all parts; assumptions that some have not are zero in these."""
    first = parts[0]
    relus = sorted({relu for part in parts for relu in part.phases})

    def of(part: Problems, relu: int, what: str) -> Tensor:
        tensors: dict[int, Tensor] = getattr(part, what)
        return tensors[relu] if relu in tensors else torch.zeros_like(part.bounds[relu].low)

    def joined(relu: int, what: str) -> Tensor:
        return torch.cat([of(part, relu, what) for part in parts])

    box = Interval(*(torch.cat([getattr(part.region.box, end) for part in parts]) for end in ("low", "high")))
    region = replace(first.region, origin=torch.cat([part.region.origin for part in parts]), box=box)
    return Problems(
        region,
        torch.cat([part.rows for part in parts]),
        {
            relu: Interval(*(torch.cat([getattr(part.bounds[relu], end) for part in parts]) for end in ("low", "high")))
            for relu in first.bounds
        },
        {relu: joined(relu, "slopes") for relu in first.slopes},
        {relu: joined(relu, "phases") for relu in relus},
        {relu: joined(relu, "multipliers") for relu in relus},
    )
