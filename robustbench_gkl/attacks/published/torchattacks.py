"""torchattacks' classes, run as published."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.published.foreign import Contiguous, quiet_and_seeded
from robustbench_gkl.attacks.specs.torchattacks import TorchAttack, import_torchattacks
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel

_THEIRS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)
"""The errors that the package raises for bad options or sizes."""


def propose(
    spec: TorchAttack, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise
) -> Tensor:
    """Return torchattacks' images (B, C, H, W).

    Args:
        spec: the class and its options.
        model: images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1], the originals.
        labels: (B,) int64.
        threat: gives ``eps`` and ``norm`` where the class has such options.
        noise: the samples' random numbers, of which only the seed is used.

    Raises:
        UserError: the package is not installed, or raises an error, as some classes do for some options, norms or image
            sizes.
    """
    cls = getattr(import_torchattacks(), spec.cls)
    with quiet_and_seeded(noise.at(spec.name), images.device):
        try:
            attack = cls(Contiguous(model, images.device).eval(), **spec.keywords(threat))
            return torch.as_tensor(attack(images.contiguous(), labels)).detach()
        except _THEIRS as error:
            if isinstance(error, UserError) or "out of memory" in str(error):
                raise
            kind, text = type(error).__name__, " ".join(str(error).split())
            raise UserError(
                f"{spec.name} ended in an error ({kind}: {text}); look at its options, or use an attack of our own"
            ) from error
