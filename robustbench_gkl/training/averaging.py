"""Exponential averages of the weights, kept while training: no old checkpoints are needed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from robustbench_gkl.config.schema import AveragingConfig
from robustbench_gkl.models import Classifier


class WeightAverage:
    """The average of a model's weights after each epoch or step.

    Args:
        config: which of the two, and how slow.
        model: the live model; copied once.
        total_steps: of the whole run, of which the warm-up is a share.

    Attributes:
        model: holds the average; in eval mode.
    """

    def __init__(self, config: AveragingConfig, model: Classifier, *, total_steps: int) -> None:
        self._config = config
        self._warmup = config.warmup * total_steps
        self._started = False
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def after_step(self, live: Classifier, *, step: int) -> None:
        """Take in the live weights after the run's ``step``-th step, counted from 1 (for the average per step)."""
        if self._config.per != "step":
            return
        since = step - self._warmup
        decay = min(self._config.decay, (1 + since) / (10 + since)) if since >= 0 else 0.0
        _average(list(self.model.parameters()), list(live.parameters()), decay=decay)
        _average(list(self.model.buffers()), list(live.buffers()), decay=0.0)

    def after_epoch(self, live: Classifier) -> None:
        """Take in the live state at the end of an epoch (for the average per epoch); the first one is copied."""
        if self._config.per != "epoch":
            return
        mine, theirs = self.model.state_dict(), live.state_dict()
        counts = [key for key, value in mine.items() if not value.is_floating_point()]
        values = [key for key in mine if key not in counts]
        decay = self._config.decay if self._started else 0.0
        _average([mine[key] for key in values], [theirs[key] for key in values], decay=decay)
        _average([mine[key] for key in counts], [theirs[key] for key in counts], decay=0.0)
        self._started = True

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"model": self.model.state_dict(), "started": self._started}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved :meth:`state`."""
        self.model.load_state_dict(state["model"])
        self._started = state["started"]


@torch.no_grad()
def _average(average: list[Tensor], live: list[Tensor], *, decay: float) -> None:
    """Set ``average`` to decay * average + (1 - decay) * live, in place."""
    if not average:
        return
    if decay == 0:
        torch._foreach_copy_(average, live)
    else:
        torch._foreach_lerp_(average, live, 1 - decay)
