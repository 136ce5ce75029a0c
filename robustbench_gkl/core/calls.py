"""Model calls: the unit in which the cost of training and of attacks is counted. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Calls:
    """Images put through the model.

    Attributes:
        forwards: forward passes.
        backwards: backward passes to the images, which attacks make.
        updates: backward passes to the weights, which training makes; each costs about two of the others.
    """

    forwards: float = 0.0
    backwards: float = 0.0
    updates: float = 0.0

    def __add__(self, other: Calls) -> Calls:
        return Calls(self.forwards + other.forwards, self.backwards + other.backwards, self.updates + other.updates)

    def __mul__(self, factor: float) -> Calls:
        return Calls(self.forwards * factor, self.backwards * factor, self.updates * factor)

    @property
    def total(self) -> float:
        """Their cost in forward passes."""
        return self.forwards + self.backwards + 2 * self.updates
