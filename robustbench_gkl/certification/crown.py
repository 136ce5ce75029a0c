"""Linear relaxation (CROWN): Zhang et al., arXiv 1811.00866, with windows as in Xu et al., arXiv 2002.12920.

A ReLU of a value z in [l, u] with l < 0 < u lies above a line of slope a in [0, 1] through zero, and below the line
through (l, 0) and (u, u). Going back from a linear function of a layer, each ReLU is replaced by the line that keeps
the function a lower bound, until a linear function of the pixels is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.operations import Affine, Interval
from robustbench_gkl.certification.region import Region
from robustbench_gkl.certification.rows import Rows, one_hot

ROUNDING = 1e-5
"""By how much the bounds of hidden layers are widened, relative to the larger of them and 1."""
_AT_ONCE = 1 << 21
"""Coefficients of rows that are taken back at a time, about."""

Bounds = Mapping[int, Interval]
"""Of the values that go into each ReLU, by its step."""


@dataclass(frozen=True)
class Lines:
    """The lines that replace a ReLU layer, (B, ...) each; of a ReLU that is stable both are the ReLU itself."""

    lower: Tensor
    upper: Tensor
    intercept: Tensor
    """Of the upper line."""
    unstable: Tensor
    """Bool: where the lines differ, so that the lower one's slope is free."""

    @classmethod
    def of(cls, bounds: Interval) -> Lines:
        """Return the lines for values within ``bounds``: below of slope 1 where u > -l, else 0."""
        low, high = bounds.low, bounds.high
        unstable, always = _unstable(bounds), (low >= 0).to(low.dtype)
        upper = torch.where(unstable, high / (high - low).clamp_min(torch.finfo(low.dtype).tiny), always)
        lower = torch.where(unstable, (high > -low).to(low.dtype), always)
        return cls(lower, upper, torch.where(unstable, -low * upper, torch.zeros_like(low)), unstable)


@dataclass
class Pass:
    """What one pass back through the network leaves.

    Attributes:
        bound: (N,), the least values of the rows on their regions, as far as the lines tell.
        pixels: the rows of the pixels that the bound is the least value of, but for constants.
        at: the rows (N, ...) of each ReLU's values, where they were asked for.
    """

    bound: Tensor
    pixels: Rows
    at: dict[int, Tensor] = field(default_factory=dict)


def backward(
    network: Network,
    region: Region,
    rows: Rows,
    start: int,
    lines: Mapping[int, Lines],
    *,
    image: Tensor | None = None,
    slopes: Mapping[int, Tensor] | None = None,
    multipliers: Mapping[int, Tensor] | None = None,
    keep: bool = False,
) -> Pass:
    """Return lower bounds of linear functions of a step's values.

    Args:
        network: the network.
        region: of the images.
        rows: N functions of the values of step ``start``.
        start: the step.
        lines: of the ReLUs before it, one set an image.
        image: (N,), to which image each row belongs; None where row n belongs to image n.
        slopes: of the lower lines, (N, ...) for each ReLU in place of those in ``lines``.
        multipliers: (N, ...) for each ReLU, added to the rows of its inputs: of constraints that are 0 at most.
        keep: return the rows of each ReLU's values.
    """
    constants = rows.values.new_zeros(len(rows.values))
    waiting = {start: rows}
    kept: dict[int, Tensor] = {}
    for number in range(start, 0, -1):
        here = waiting.pop(number, None)
        if here is None:
            continue
        step = network.steps[number]
        if isinstance(step, Affine):
            before, constant = step.back(here)
        else:
            if keep:
                kept[number] = here.values.detach()
            before, constant = _through(here, lines[number], image, None if slopes is None else slopes[number])
            if multipliers is not None and number in multipliers:
                before = Rows(before.values + multipliers[number], before.corner)
        constants = constants + constant
        for source in step.inputs:
            waiting[source] = _joined(waiting[source], before, network, source) if source in waiting else before
    pixels = waiting[0]
    return Pass(constants + region.least(pixels, image), pixels, kept)


def _through(rows: Rows, lines: Lines, image: Tensor | None, slopes: Tensor | None) -> tuple[Rows, Tensor]:
    """Return the rows of a ReLU layer's inputs that are at most ``rows`` of its values, and the constants (N,)."""
    lower = rows.of_images(lines.lower, image) if slopes is None else slopes
    upper, intercept = (rows.of_images(line, image) for line in (lines.upper, lines.intercept))
    falling = rows.values.clamp_max(0)
    before = (rows.values - falling) * lower + falling * upper
    return Rows(before, rows.corner), (falling * intercept).flatten(1).sum(1)


def _joined(one: Rows, other: Rows, network: Network, number: int) -> Rows:
    shape = network.steps[number].shape
    if one.corner is None or other.corner is None or not one.lies_alike(other):
        return Rows(one.whole(shape).values + other.whole(shape).values)
    return (one + other).inside(shape)


@torch.no_grad()
def hidden_bounds(
    network: Network, region: Region, *, relaxed: bool = True
) -> tuple[dict[int, Interval], list[Interval]]:
    """Return bounds of the values that go into each ReLU, and of each of the inputs of the last step.

    Each layer is bounded by interval arithmetic from those before it. What that leaves unstable is bounded again by
    linear relaxation.

    Args:
        network: the network.
        region: of B images.
        relaxed: use linear relaxation; otherwise interval arithmetic alone.
    """
    known: list[Interval] = [region.box]
    bounds: dict[int, Interval] = {}
    lines: dict[int, Lines] = {}
    for number, step in enumerate(network.steps[1:], start=1):
        given = [known[source] for source in step.inputs]
        if number in network.relus:
            (source,) = step.inputs
            widened = _widened(given[0])
            if relaxed and (lines or not region.threat.geometry.box):
                widened = _tightened(network, region, source, widened, lines)
            bounds[number], lines[number] = widened, Lines.of(widened)
            given = [widened]
        known.append(step.interval(*given))
    return bounds, [known[source] for source in network.steps[-1].inputs]


def _unstable(bounds: Interval) -> Tensor:
    """Return (B, ...) bool: which values may have either sign; bounds that overflowed to NaN tell nothing."""
    return ~((bounds.low >= 0) | (bounds.high <= 0))


def _widened(bounds: Interval) -> Interval:
    reach = ROUNDING * torch.maximum(bounds.low.abs(), bounds.high.abs()).clamp_min(1)
    return Interval(bounds.low - reach, bounds.high + reach)


def _tightened(network: Network, region: Region, source: int, bounds: Interval, lines: Mapping[int, Lines]) -> Interval:
    """Return the bounds of a step's values with those that are unstable bounded by linear relaxation."""
    shape = network.steps[source].shape
    low, high = bounds.low.flatten(1).clone(), bounds.high.flatten(1).clone()
    image, neuron = _unstable(Interval(low, high)).nonzero(as_tuple=True)
    size = max(1, _AT_ONCE // max(torch.Size(step.shape).numel() for step in network.steps[: source + 1]))
    for start in range(0, len(image), size):
        images, places = image[start : start + size], neuron[start : start + size]
        found = []
        for sign in (1.0, -1.0):
            rows = one_hot(shape, places, sign=torch.full_like(places, sign, dtype=low.dtype))
            found.append(backward(network, region, rows, source, lines, image=images).bound)
        least, most = found[0], -found[1]
        reach = ROUNDING * torch.maximum(least.abs(), most.abs()).clamp_min(1)
        low[images, places] = torch.maximum(low[images, places], least - reach)
        high[images, places] = torch.minimum(high[images, places], most + reach)
    return Interval(low.reshape(bounds.low.shape), high.reshape(bounds.high.shape))
