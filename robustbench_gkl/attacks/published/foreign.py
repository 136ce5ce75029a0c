"""The model and torch's global state for the attacks of other packages.

They draw from torch's global generator, which is seeded here for each batch, so that their results depend on the batch
size; the record names the implementation.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.core.noise import Noise


class Contiguous(nn.Module):
    """The model as a module for other packages' attacks; it gets contiguous images."""

    def __init__(self, model: Model, device: torch.device) -> None:
        super().__init__()
        self._model = [model]
        self.anchor = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) in float32 of ``images`` (B, C, H, W)."""
        return self._model[0](images.contiguous()).float()


@contextlib.contextmanager
def quiet_and_seeded(noise: Noise, device: torch.device) -> Iterator[int]:
    """Seed torch for the block and restore its state afterwards; discard what the block prints and logs.

    Yields:
        The seed, a function of ``noise``.
    """
    seed = int(noise.at("external").bits()[0]) & 0x7FFFFFFF
    logger = logging.getLogger("auto-attack")
    disabled, logger.disabled = logger.disabled, True
    devices = [device] if device.type == "cuda" else []
    tracing = sys.gettrace()  # pyautoattack takes away a debugger's or a coverage report's
    try:
        with torch.random.fork_rng(devices=devices), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(seed)
            yield seed
    finally:
        logger.disabled = disabled
        sys.settrace(tracing)
