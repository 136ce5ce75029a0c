"""The attack beside branch and bound: descents of the margins from many starts, the lowest of them polished.

The first round starts at random and at points that branch and bound gives; later ones also where the lowest ends so far
are put together, window by window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.problems import Problems
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

STARTS = 64
"""Starts of a round."""
STEPS = 40
"""Gradient steps of each, the first of a quarter of the radius, falling to zero."""
POLISHED = 8
"""Ends of a round that are polished,"""
FINE_STEPS = 80
"""by steps that begin at a tenth of the others' length."""
QUICK_STEPS = 10
"""Steps of the descents that come before all else, the first of half the radius."""
CALLS = 2 * (STARTS * STEPS + POLISHED * FINE_STEPS)
"""Of a round, forwards and backwards."""
KEPT = 24
"""Lowest ends of all rounds from which later ones start,"""
APART = 1e-5
"""and by how much more than this their margins differ: others are the same point."""


class Points(NamedTuple):
    """Images in a sample's ball, each with a margin that is low there.

    Attributes:
        images: (N, C, H, W).
        rows: (N, K), the margins.
        margins: (N,), their values.
    """

    images: Tensor
    rows: Tensor
    margins: Tensor

    @classmethod
    def none(cls, problems: Problems) -> Points:
        """Return none, of the sample of ``problems``."""
        return cls(problems.region.origin[:0], problems.rows[:0], problems.rows[:0, 0])

    def lowest(self, count: int, others: Points, *, apart: float = 0.0) -> Points:
        """Return the lowest ``count`` of these and of ``others``, of which no two margins are within ``apart``.

        Those below zero are left out: the model itself is not fooled by them, and a descent from there ends at once.
        """
        images, rows, margins = (torch.cat(pair) for pair in zip(self, others, strict=True))
        order = margins.argsort(stable=True)
        gap = margins[order].diff(prepend=margins.new_full((1,), -torch.inf))
        kept = order[(gap >= apart) & (margins[order] >= 0)][:count]
        return Points(images[kept], rows[kept], margins[kept])


def quick_round(network: Network, problems: Problems, noise: Noise) -> tuple[Points, int]:
    """Return the ends of one short descent of each margin, (N,) of them, and the calls that it took.

    Most samples that can be broken fall to it.
    """
    threat, origin = problems.region.threat, problems.region.origin
    starts = _random(problems, len(problems), noise)
    images, margins = descended(
        network, threat, problems.rows, starts, origin, steps=QUICK_STEPS, length=threat.radius / 2
    )
    return Points(images, problems.rows, margins), 2 * len(problems) * QUICK_STEPS


def search_round(network: Network, problems: Problems, given: Points, kept: Points, noise: Noise) -> Points:
    """Return where :data:`STARTS` descents of a sample's margins end.

    Args:
        network: the network.
        problems: the sample's margins that are not proved.
        given: starts, at most :data:`STARTS`.
        kept: ends of earlier rounds, of which the other starts are put together; if there are none, these are random,
            and the margins are dealt out among them evenly.
        noise: the round's random numbers, of one sample.
    """
    threat = problems.region.threat
    origin = problems.region.origin[:1].expand(STARTS, *problems.region.origin.shape[1:])
    count = STARTS - len(given.rows)
    if len(kept.rows):
        images, rows = crossed(problems, kept, count, noise)
    else:
        rows = problems.rows[torch.arange(count, device=origin.device) % len(problems)]
        images = _random(problems, count, noise)
    rows, images = torch.cat([given.rows, rows]), torch.cat([given.images, images])
    length = threat.radius / 4
    images, margins = descended(network, threat, rows, images, origin, steps=STEPS, length=length)
    if not bool((margins < 0).any()):
        best = margins.topk(POLISHED, largest=False).indices
        images[best], margins[best] = descended(
            network, threat, rows[best], images[best], origin[:POLISHED], steps=FINE_STEPS, length=length / 10
        )
    return Points(images, rows, margins)


def crossed(problems: Problems, kept: Points, count: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return ``count`` starts (count, C, H, W) that are put together of ``kept``, and their margins (count, K).

    Each is one of ``kept``, with a window of another of the same margin, and a random window.
    """
    origin = problems.region.origin[:1]
    one = noise.at("one").integers(len(kept.rows), count)[0]
    alike = (kept.rows[one, None] == kept.rows).all(2)
    other = noise.at("other").uniform(count, len(kept.rows))[0].where(alike, -1.0).argmax(1)
    images = _pasted(kept.images[one], kept.images[other], noise.at("from other"))
    images = _pasted(images, _random(problems, count, noise), noise.at("anew"))
    return problems.region.threat.project(images, origin.expand_as(images)), kept.rows[one]


def _pasted(images: Tensor, others: Tensor, noise: Noise) -> Tensor:
    """Return ``images`` (B, C, H, W) with a window each of ``others``, of half the height and width at most."""
    inside = []
    for side, size in (("rows", images.shape[2]), ("columns", images.shape[3])):
        middle = noise.at(side).integers(size, len(images))[0, :, None]
        reach = noise.at(side, "reach").integers(size // 4 + 1, len(images))[0, :, None]
        inside.append((torch.arange(size, device=images.device) - middle).abs() <= reach)
    window = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(window, others, images)


def _random(problems: Problems, count: int, noise: Noise) -> Tensor:
    """Return ``count`` random images (count, C, H, W) of the sample's ball."""
    threat, origin = problems.region.threat, problems.region.origin[:1]
    drawn = [threat.random_start(origin, noise.at("start", number)) for number in range(count)]
    return torch.cat([origin[:0], *drawn])


def descended(
    network: Network, threat: ThreatModel, rows: Tensor, images: Tensor, origin: Tensor, *, steps: int, length: float
) -> tuple[Tensor, Tensor]:
    """Return the lowest points (B, C, H, W) of descents, and their margins (B,).

    Args:
        network: the network.
        threat: of the balls.
        rows: (B, K), the margins.
        images, origin: (B, C, H, W), where they start, and the balls' centers.
        steps: of each, until one margin is negative.
        length: of the first step; the last is of none.
    """
    best, lowest = images, torch.full((len(images),), torch.inf, device=images.device)
    for step in range(steps):
        images = images.detach().requires_grad_()
        margin = (network(images) * rows).sum(1)
        (gradient,) = torch.autograd.grad(margin.sum(), images)
        images, margin = images.detach(), margin.detach()
        better = margin < lowest
        best = torch.where(better[:, None, None, None], images, best)
        lowest = torch.where(better, margin, lowest)
        if bool((lowest < 0).any()):
            break
        moved = images + threat.steepest(-gradient, images, length * (1 - step / steps))
        images = threat.project(moved, origin)
    return best, lowest
