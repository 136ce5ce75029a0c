"""Certificates of samples: interval arithmetic, linear relaxation, better slopes, and branch and bound, in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_gkl.certification.branching import Budget, Searched, branch_and_bound
from robustbench_gkl.certification.crown import Bounds, hidden_bounds
from robustbench_gkl.certification.network import MARGIN, Network, units
from robustbench_gkl.certification.operations import Affine, Interval
from robustbench_gkl.certification.problems import Problems, improved
from robustbench_gkl.certification.region import Region
from robustbench_gkl.certification.rows import Rows
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

SLOPE_STEPS = 20
"""Gradient steps on the slopes of what plain CROWN does not prove."""


@dataclass(frozen=True)
class Bounded:
    """What bounds tell of one sample.

    Attributes:
        method: what proved it: ``ibp``, ``crown`` or ``alpha-crown``; None where it is not proved.
        problems: the margins that are not proved, (N,).
        bound: (N,), of these.
    """

    method: str | None
    problems: Problems | None = None
    bound: Tensor | None = None


class Certifier:
    """Proves of samples that no image in their balls is classified otherwise, up to floating point.

    Hidden bounds are computed in float64 and widened, as radii are; better slopes and splits are sought in float32, and
    what counts as proved is bounded again in float64 and exceeds :data:`MARGIN`.

    Args:
        network: in float32, on its device.
        threat: norm and radius.
    """

    def __init__(self, network: Network, threat: ThreatModel) -> None:
        self.network, self.threat = network, threat
        self.precise = network.to(torch.float64)

    @property
    def calls(self) -> int:
        """About how many rows go back through the network for a sample's bounds."""
        return 2 * self.network.beyond_first + self.network.steps[-1].shape[0] * (1 + 2 * SLOPE_STEPS)

    def bound(self, images: Tensor, labels: Tensor) -> list[Bounded]:
        """Return what bounds tell of samples that are classified correctly.

        Args:
            images: (B, C, H, W) float32 in [0, 1].
            labels: (B,), on the same device.
        """
        region = Region.around(self.threat, images)
        rows, image = self._margins(images, labels)
        by_intervals = self._by_intervals(region, rows, image)
        found = [Bounded("ibp") if proved else Bounded(None) for proved in _all(by_intervals, image, len(images))]
        left = torch.tensor([one.method is None for one in found], device=images.device).nonzero().flatten()
        if len(left):
            relaxed = self._by_relaxation(region[left], *self._margins(images[left], labels[left]), len(left))
            for place, one in zip(left.tolist(), relaxed, strict=True):
                found[place] = one
        return found

    def search(
        self,
        bounded: Bounded,
        budget: Budget,
        noise: Noise,
        fools: Callable[[Tensor], bool],
        stop: Callable[[], bool] = lambda: False,
    ) -> Searched:
        """Return what branch and bound, and an attack beside it, find of a sample that bounds have not proved.

        Args:
            bounded: the sample.
            budget: when to give up.
            noise: the sample's random numbers.
            fools: an image (C, H, W) to whether it is in the ball and the model itself classifies it wrongly.
            stop: asked on the way whether to give up before the budget is spent.
        """
        assert bounded.problems is not None
        assert bounded.bound is not None
        return branch_and_bound(
            self.network,
            bounded.problems,
            bounded.bound,
            budget=budget,
            noise=noise,
            proves=self._proved,
            fools=fools,
            enough=MARGIN,
            stop=stop,
        )

    @torch.no_grad()
    def confirmed(self, problems: Problems) -> Tensor:
        """Return (N,) bool: which margins exceed :data:`MARGIN` by their bounds in float64."""
        return problems.to(torch.float64).bounded(self.precise).bound > MARGIN

    @torch.no_grad()
    def _margins(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the margins of each image as rows (N, K) of logits, in the image's units, and the images."""
        unit, logits = units(self.network, self.precise, images)
        count = logits.shape[1]
        image, other = (torch.arange(count, device=labels.device) != labels[:, None]).nonzero(as_tuple=True)
        eye = torch.eye(count, device=images.device)
        return (eye[labels[image]] - eye[other]) / unit[image, None], image

    @torch.no_grad()
    def _by_intervals(self, region: Region, rows: Tensor, image: Tensor) -> Tensor:
        """Return (N,) bool: which margins interval arithmetic proves, but for the last step."""
        _, given = hidden_bounds(self.precise, region.to(torch.float64), relaxed=False)
        last = self.precise.steps[-1]
        if not isinstance(last, Affine):
            return torch.zeros_like(image, dtype=torch.bool)
        before, constants = last.back(Rows(rows.double()))
        values = before.values.flatten(1)
        least = torch.zeros_like(values[:, 0]) + constants
        for bounds in given:
            center, radius = bounds.center.flatten(1)[image], bounds.radius.flatten(1)[image]
            least += (values * center - values.abs() * radius).sum(1)
        return least > MARGIN

    def _by_relaxation(self, region: Region, rows: Tensor, image: Tensor, count: int) -> list[Bounded]:
        bounds, _ = hidden_bounds(self.precise, region.to(torch.float64))  # they are widened by more than float32 errs
        problems = Problems.begin(region[image], rows, _of_images(bounds, image))
        with torch.no_grad():
            bound = problems.bounded(self.network).bound
        proved = self._proved(problems, bound)
        by_crown = _all(proved, image, count)
        left = (~proved).nonzero().flatten()
        if len(left):
            problems, image = problems[left], image[left]
            problems, bound = improved(self.network, problems, steps=SLOPE_STEPS, enough=MARGIN)
            proved = self._proved(problems, bound)
        by_slopes = by_crown if not len(left) else _all(proved, image, count)
        found = []
        for number in range(count):
            mine = ((image == number) & ~proved).nonzero().flatten()
            method = "crown" if by_crown[number] else "alpha-crown" if by_slopes[number] else None
            found.append(Bounded(method, problems[mine], bound[mine]) if method is None else Bounded(method))
        return found

    def _proved(self, problems: Problems, bound: Tensor) -> Tensor:
        proved = bound > MARGIN
        hopeful = proved.nonzero().flatten()
        if len(hopeful):
            proved[hopeful] = self.confirmed(problems[hopeful])
        return proved


def _of_images(bounds: Bounds, image: Tensor) -> dict[int, Interval]:
    return {relu: Interval(given.low[image].float(), given.high[image].float()) for relu, given in bounds.items()}


def _all(proved: Tensor, image: Tensor, count: int) -> list[bool]:
    """Return for each of ``count`` images whether all of its margins are proved."""
    failed = torch.zeros(count, dtype=torch.bool, device=image.device)
    failed[image[~proved]] = True
    return [not one for one in failed.tolist()]
