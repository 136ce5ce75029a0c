"""What all attacks share, and the reading of attack specs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_gkl.config import bind_options
from robustbench_gkl.errors import UserError
from robustbench_gkl.exact import format_fraction
from robustbench_gkl.noise import Noise
from robustbench_gkl.registry import Registry
from robustbench_gkl.threat import ThreatModel

Model = Callable[[Tensor], Tensor]
"""Anything that maps images (B, C, H, W) in [0, 1] to logits (B, K)."""


class Attack(ABC):
    """An attack: a pure function from (model, images, labels, threat) to candidate images.

    Subclasses are frozen dataclasses whose fields are the options of the attack's spec.
    """

    name: ClassVar[str]
    """The name in a spec."""
    implementation: ClassVar[str] = "gklbench"
    """Whose code runs; part of the protocol."""

    @property
    def label(self) -> str:
        """The name of the attack's column: its spec with what is not the default."""
        return ":".join(filter(None, (self.name, self._changed())))

    def _changed(self, *, hide: Sequence[str] = ()) -> str:
        values = self.options()
        return ",".join(
            f"{field.name}={values[field.name]}"
            for field in fields(self)  # type: ignore[arg-type]
            if field.name not in hide and getattr(self, field.name) != field.default
        )

    def options(self) -> dict[str, Any]:
        """Return the options with exact numbers as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {key: format_fraction(v) if isinstance(v, Fraction) else v for key, v in values.items()}

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return everything that decides what this attack does, defaults resolved, as plain data."""
        return {"attack": self.name, "implementation": self.implementation, **self.options()}

    def stages(self, threat: ThreatModel, *, num_classes: int) -> tuple[Attack, ...]:
        """Return the attacks that this one is made of, each run on the samples that the ones before left."""
        return (self,)

    def reference(self, threat: ThreatModel) -> Attack:
        """Return the published implementation of this attack.

        Raises:
            UserError: there is none, or none for this norm.
        """
        raise UserError(f"--engine reference has no published implementation of {self.name}; use --engine native")

    @abstractmethod
    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        """Return candidate images (B, C, H, W), one for each of ``images``.

        Args:
            model: in eval mode; parameters need no gradients.
            images: (B, C, H, W) float32 in [0, 1].
            labels: (B,) int64.
            threat: what is allowed; the caller checks it again.
            noise: the samples' random numbers.
        """


ATTACKS: Registry[Callable[..., Attack]] = Registry("attack", "robustbench_gkl.attacks")


def parse_attack(spec: str) -> Attack:
    """Return the attack that ``NAME`` or ``NAME:key=value,key=value`` describes.

    Raises:
        UserError: unknown name or option, a malformed spec, or a value out of range.
    """
    name, colon, text = spec.partition(":")
    factory, parameters = ATTACKS.resolve(name)
    options: dict[str, object] = {}
    for item in text.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"attack spec {spec!r}: expected NAME:key=value,key=value, got {item!r}")
        if key.strip() in options:
            raise UserError(f"attack spec {spec!r}: {key.strip()} is given twice")
        options[key.strip()] = value.strip()
    return bind_options(factory, options, what=f"attack {name}", **parameters)


def protocol_of(attacks: Sequence[Attack], threat: ThreatModel, *, num_classes: int) -> list[dict[str, Any]]:
    """Return the settings of each attack and of its stages, which together say what was measured."""
    return [
        {
            "label": attack.label,
            "stages": [
                stage.settings(threat, num_classes=num_classes)
                for stage in attack.stages(threat, num_classes=num_classes)
            ],
        }
        for attack in attacks
    ]


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode and stop its parameters from collecting gradients, for the time of the block."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def full_logits(logits: Tensor) -> Tensor:
    """Return ``logits`` as losses need them: half precision becomes float32, all others stay as they are."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def input_gradient(model: Model, images: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient (B, C, H, W) of each sample's objective at ``images``; one forward and one backward pass.

    Args:
        model: images to logits (B, K).
        images: (B, C, H, W).
        objective: :func:`full_logits` to one value per sample, (B,).
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        value = objective(full_logits(model(images))).sum()
    (gradient,) = torch.autograd.grad(value, images)
    return gradient
