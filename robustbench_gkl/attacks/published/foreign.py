"""The model, the noise and torch's global state as other people's attacks expect them.

Their attacks draw from torch's global generator, seeded here for each batch, so that their results depend on the batch
size; the record names the implementation.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.core.noise import Noise


class Contiguous(nn.Module):
    """The model as other people's code expects it: a module that takes and gives contiguous tensors."""

    def __init__(self, model: Model, device: torch.device) -> None:
        super().__init__()
        self._model = [model]
        self.anchor = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) in float32."""
        return self._model[0](images.contiguous()).float()


@contextlib.contextmanager
def quiet_and_seeded(noise: Noise, device: torch.device) -> Iterator[int]:
    """Keep prints and log lines of the block away, and torch's global random state as it was."""
    seed = int(noise.at("external").bits()[0]) & 0x7FFFFFFF
    logger = logging.getLogger("auto-attack")
    disabled, logger.disabled = logger.disabled, True
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(seed)
            yield seed
    finally:
        logger.disabled = disabled
