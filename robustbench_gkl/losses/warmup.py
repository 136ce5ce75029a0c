"""Losses whose teacher's term grows over the first epochs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robustbench_gkl.losses.base import Loss

Epochs = Annotated[int, Field(ge=0)]
"""An option that counts epochs."""


class WarmedUp(Loss):
    """A loss with a factor ``ramp`` that rises linearly: min(epoch / warmup, 1), epochs counted from 1.

    It is no state: :meth:`start_epoch` sets it from the epoch, also where a run goes on.

    Args:
        warmup: epochs after which ``ramp`` is 1; 0 for 1 from the start.
    """

    ramp: float

    def __init__(self, *, warmup: int) -> None:
        super().__init__()
        self.warmup = warmup
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Set ``ramp`` for the epoch, counted from 0."""
        self.ramp = min((epoch + 1) / self.warmup, 1.0) if self.warmup else 1.0
