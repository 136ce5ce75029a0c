"""The attack beside branch and bound: descents of the margins from many random starts, the lowest of them polished."""

from __future__ import annotations

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


def quick_round(network: Network, problems: Problems, noise: Noise) -> tuple[Tensor | None, int]:
    """Return an image (C, H, W) as :func:`search_round` does, of one short descent of each margin, and its calls.

    Most samples that can be broken fall to it.
    """
    threat, origin = problems.region.threat, problems.region.origin
    starts = [threat.random_start(origin[:1], noise.at("start", number)) for number in range(len(problems))]
    images, margin = descended(
        network, threat, problems.rows, torch.cat(starts), origin, steps=QUICK_STEPS, length=threat.radius / 2
    )
    found = images[margin.argmin()] if bool((margin < 0).any()) else None
    return found, 2 * len(problems) * QUICK_STEPS


def search_round(network: Network, problems: Problems, given: tuple[Tensor, Tensor], noise: Noise) -> Tensor | None:
    """Return an image (C, H, W) in a sample's ball at which one of its margins is negative; None if none was found.

    Args:
        network: the network.
        problems: the sample's margins that are not proved, among which random starts are dealt out evenly.
        given: (G, C, H, W) starts in the ball, G at most :data:`STARTS`, and their margins (G, K); the rest are random.
        noise: the round's random numbers, of one sample.
    """
    threat = problems.region.threat
    origin = problems.region.origin[:1].expand(STARTS, *problems.region.origin.shape[1:])
    drawn = range(STARTS - len(given[0]))
    dealt = problems.rows[torch.arange(len(drawn), device=origin.device) % len(problems)]
    rows = torch.cat([given[1], dealt])
    starts = torch.cat([given[0], *(threat.random_start(origin[:1], noise.at("start", number)) for number in drawn)])
    length = threat.radius / 4
    images, margin = descended(network, threat, rows, starts, origin, steps=STEPS, length=length)
    if bool((margin < 0).any()):
        return images[margin.argmin()]
    best = margin.topk(POLISHED, largest=False).indices
    images, margin = descended(
        network, threat, rows[best], images[best], origin[:POLISHED], steps=FINE_STEPS, length=length / 10
    )
    return images[margin.argmin()] if bool((margin < 0).any()) else None


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
