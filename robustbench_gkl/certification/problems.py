"""Margins to be bounded, each under split ReLUs of its own, and their bounds made better by gradient steps.

The slopes of the lower lines are free in [0, 1] (alpha-CROWN, Xu et al., arXiv 2011.13824), and a split of a ReLU into
its two phases is a constraint with a multiplier of at least 0 (beta-CROWN, Wang et al., arXiv 2103.06624): any choice
gives a lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_gkl.certification.crown import Bounds, Lines, Pass, backward
from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.operations import Interval
from robustbench_gkl.certification.region import Region
from robustbench_gkl.certification.rows import Rows

RATE, DECAY = 0.25, 0.95
"""Of the steps of Adam, and by what the rate falls with each."""


@dataclass(frozen=True)
class Problems:
    """N margins of logits, each to be shown positive on a region, with what a bound of it takes.

    Attributes:
        region: of each.
        rows: (N, K), the label's logit less another's.
        bounds: (N, ...) of the values that go into each ReLU.
        slopes: (N, ...) for each ReLU, of the lower lines.
        phases: (N, ...) for each ReLU that is split: 1 where z >= 0 is assumed, -1 where z <= 0, else 0.
        multipliers: (N, ...) of these assumptions, at least 0.
    """

    region: Region
    rows: Tensor
    bounds: Bounds
    slopes: Mapping[int, Tensor]
    phases: Mapping[int, Tensor]
    multipliers: Mapping[int, Tensor]

    @classmethod
    def begin(cls, region: Region, rows: Tensor, bounds: Bounds) -> Problems:
        """Return the problems without splits, with the slopes of plain CROWN."""
        return cls(region, rows, bounds, {relu: Lines.of(given).lower for relu, given in bounds.items()}, {}, {})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Problems:
        """Return the problems of ``rows``, (M,) indices or (N,) bool."""
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows

        def of(tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {relu: tensor.index_select(0, index) for relu, tensor in tensors.items()}

        bounds = {
            relu: Interval(given.low.index_select(0, index), given.high.index_select(0, index))
            for relu, given in self.bounds.items()
        }
        return Problems(
            self.region[index], self.rows[index], bounds, of(self.slopes), of(self.phases), of(self.multipliers)
        )

    def to(self, dtype: torch.dtype) -> Problems:
        """Return the same problems in ``dtype``."""

        def of(tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {relu: tensor.to(dtype) for relu, tensor in tensors.items()}

        bounds = {relu: Interval(given.low.to(dtype), given.high.to(dtype)) for relu, given in self.bounds.items()}
        region, rows = self.region.to(dtype), self.rows.to(dtype)
        return Problems(region, rows, bounds, of(self.slopes), of(self.phases), of(self.multipliers))

    def bounded(self, network: Network, *, keep: bool = False) -> Pass:
        """Return lower bounds (N,) of the margins."""
        lines = {relu: Lines.of(given) for relu, given in self.bounds.items()}
        return self._bounded(network, lines, self.slopes, self.multipliers, keep=keep)

    def _bounded(
        self,
        network: Network,
        lines: Mapping[int, Lines],
        slopes: Mapping[int, Tensor],
        multipliers: Mapping[int, Tensor],
        *,
        keep: bool = False,
    ) -> Pass:
        last = len(network.steps) - 1
        free = {relu: torch.where(line.unstable, slopes[relu], line.lower) for relu, line in lines.items()}
        signed = {relu: -self.phases[relu] * value for relu, value in multipliers.items()}
        return backward(network, self.region, Rows(self.rows), last, lines, slopes=free, multipliers=signed, keep=keep)


def improved(network: Network, problems: Problems, *, steps: int, enough: float) -> tuple[Problems, Tensor]:
    """Return the problems with better slopes and multipliers, and their bounds (N,).

    Args:
        network: the network.
        problems: N of them.
        steps: of Adam at most, fewer where all bounds are enough.
        enough: a bound that needs no improvement.
    """
    if not problems.slopes:  # without ReLUs there is nothing to choose
        with torch.no_grad():
            return problems, problems.bounded(network).bound
    lines = {relu: Lines.of(given) for relu, given in problems.bounds.items()}
    slopes = {relu: slope.clone().requires_grad_() for relu, slope in problems.slopes.items()}
    multipliers = {relu: value.clone().requires_grad_() for relu, value in problems.multipliers.items()}
    free = [*slopes.values(), *multipliers.values()]
    adam = torch.optim.Adam(free, lr=RATE)
    best = torch.full((len(problems),), -torch.inf, device=problems.rows.device)
    kept = [value.detach().clone() for value in free]
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            bound = problems._bounded(network, lines, slopes, multipliers).bound
        better = bound.detach() > best
        best = torch.where(better, bound.detach(), best)
        _keep(kept, free, better)
        if step == steps or bool((best > enough).all()):
            break
        gradients = torch.autograd.grad(-bound.sum(), free)
        for value, gradient in zip(free, gradients, strict=True):
            value.grad = gradient
        adam.step()
        adam.param_groups[0]["lr"] *= DECAY
        _clamp(slopes, multipliers)
    found = dict(zip([*slopes, *(-relu for relu in multipliers)], kept, strict=True))
    return (
        Problems(
            problems.region,
            problems.rows,
            problems.bounds,
            {relu: found[relu] for relu in slopes},
            problems.phases,
            {relu: found[-relu] for relu in multipliers},
        ),
        best,
    )


def _keep(kept: Sequence[Tensor], values: Sequence[Tensor], better: Tensor) -> None:
    for old, new in zip(kept, values, strict=True):
        old[better] = new.detach()[better]


@torch.no_grad()
def _clamp(slopes: Mapping[int, Tensor], multipliers: Mapping[int, Tensor]) -> None:
    for value in slopes.values():
        value.clamp_(0, 1)
    for value in multipliers.values():
        value.clamp_min_(0)
