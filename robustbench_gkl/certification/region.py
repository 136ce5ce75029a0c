"""Where an adversary may go: the ball cut with [0, 1], widened for rounding, and linear functions on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_gkl.certification.operations import Interval
from robustbench_gkl.certification.rows import Rows
from robustbench_gkl.core.threat import ThreatModel

WIDENING = 2.0**-20
"""By how much the radius is widened, relatively and for each pixel: more than attacks are allowed in the ball."""


@dataclass(frozen=True)
class Region:
    """The images that an adversary may choose around each of B originals.

    Attributes:
        threat: norm and radius.
        origin: (B, C, H, W), the originals.
        box: the smallest box around the ball, cut with [0, 1]; for linf that is the region itself.
    """

    threat: ThreatModel
    origin: Tensor
    box: Interval

    @classmethod
    def around(cls, threat: ThreatModel, origin: Tensor) -> Region:
        """Return the region around each of ``origin`` (B, C, H, W) in [0, 1]."""
        reach = _widened_radius(threat, 1 if threat.geometry.box else origin[0].numel())
        return cls(threat, origin, Interval((origin - reach).clamp_min(0), (origin + reach).clamp_max(1)))

    def __getitem__(self, rows: Tensor) -> Region:
        """Return the regions of ``rows`` (N,)."""
        return Region(self.threat, self.origin[rows], Interval(self.box.low[rows], self.box.high[rows]))

    def to(self, dtype: torch.dtype) -> Region:
        """Return the same region in ``dtype``."""
        return Region(self.threat, self.origin.to(dtype), Interval(self.box.low.to(dtype), self.box.high.to(dtype)))

    @property
    def radius(self) -> float:
        """The widened radius, in the threat's norm."""
        return _widened_radius(self.threat, self.origin[0].numel())

    def least(self, rows: Rows, image: Tensor | None) -> Tensor:
        """Return the least value (N,) of each row of pixels on the region of its image.

        Args:
            rows: N linear functions of the pixels.
            image: (N,), to which image each belongs; None where row n belongs to image n.
        """
        if self.threat.geometry.box:
            center, radius = rows.of_images(self.box.center, image), rows.of_images(self.box.radius, image)
            return (rows.values * center - rows.values.abs() * radius).flatten(1).sum(1)
        slopes = rows.values.flatten(1)
        at_origin = (slopes * rows.of_images(self.origin, image).flatten(1)).sum(1)
        return at_origin - self.radius * self.threat.dual_length(slopes)

    @torch.no_grad()
    def minimiser(self, slopes: Tensor) -> Tensor:
        """Return the image (B, C, H, W) in each ball, not widened, at which a row of pixels is least."""
        if self.threat.geometry.box:
            corner = torch.where(slopes > 0, self.box.low, self.box.high)
        else:
            corner = self.origin + self.threat.steepest(-slopes, self.origin, self.threat.radius)
        return self.threat.project(corner, self.origin)


def _widened_radius(threat: ThreatModel, pixels: int) -> float:
    """Return the radius with what rounding adds to the length of as many pixels; one of them may take all of it."""
    rounding = torch.full((1, pixels), WIDENING, dtype=torch.float64)
    return threat.radius * (1 + 1e-5) + float(threat.length(rounding))
