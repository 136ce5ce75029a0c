"""The model as attacks see it, with its calls counted."""

from __future__ import annotations

import threading

from torch import Tensor

from robustbench_gkl.attacks.model import Model


class Meter:
    """The model as attacks see it: float32 logits out, images counted on the way in and back."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.searched: Model = model
        """The model that searches ask, which may be compiled."""
        self.forwards = 0
        self.backwards = 0
        self._lock = threading.Lock()

    @property
    def compiled(self) -> bool:
        """Whether searches ask another form of the model."""
        return self.searched is not self.model

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) in float32."""
        return self._counted(self.model(images), images)

    def search(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) in float32, where nothing is decided by them alone."""
        return self._counted(self.searched(images), images)

    def add(self, forwards: int, backwards: int) -> None:
        """Count images that went forwards and backwards through the model in another process."""
        with self._lock:
            self.forwards += forwards
            self.backwards += backwards

    def _counted(self, logits: Tensor, images: Tensor) -> Tensor:
        with self._lock:
            self.forwards += images.shape[0]
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits.float()

    def _count(self, gradient: Tensor) -> None:
        with self._lock:
            self.backwards += gradient.shape[0]
