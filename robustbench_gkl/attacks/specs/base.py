"""What all attack specs share, and their reading from text."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import Field

from robustbench_gkl.core.calls import Calls
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import NORMS, Norm, format_fraction
from robustbench_gkl.core.registry import Registry, check_keywords, load_object
from robustbench_gkl.core.validation import bind_options

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_gkl.attacks.search.base import Search
    from robustbench_gkl.attacks.search.slots import Space
    from robustbench_gkl.core.noise import Noise
    from robustbench_gkl.core.threat import ThreatModel

Count = Annotated[int, Field(ge=1)]
"""An option that counts: an integer from 1 on."""

_UNSET = "auto"
"""How a spec writes an option that is left to the attack."""


class Ball(Protocol):
    """Norm and radius, as a threat model or its configuration has them."""

    @property
    def norm(self) -> Norm:
        """``linf``, ``l2`` or ``l1``."""
        ...

    @property
    def eps(self) -> Fraction:
        """The radius in the [0, 1] image scale."""
        ...


class AttackSpec(ABC):
    """What an attack is: its options, what it costs, and which code runs it. A value that needs no torch.

    Subclasses are frozen dataclasses whose fields are the options. The code that runs is named by ``runner`` and
    imported when the attack runs.
    """

    name: ClassVar[str]
    """The name in a spec."""
    family: ClassVar[str] = "other"
    """The method, whatever the options or the objective: ``pgd``, ``apgd``, ``fab``, ``square``, ..."""
    implementation: ClassVar[str] = "gklbench"
    """Whose code runs; part of the protocol."""
    gradients: ClassVar[bool | None] = True
    """Whether the attack uses gradients of the model; None where that is not known."""
    positional: ClassVar[str | None] = None
    """The option whose value may stand first in a spec, without its name."""
    targeted: ClassVar[bool] = False
    """Whether each run aims at a class of its own: the runner-up of the unattacked image with the run's rank."""
    minimal: ClassVar[bool] = False
    """Whether the attack looks for the nearest adversarial image, which may well lie outside the ball."""
    returns_failures: ClassVar[bool] = True
    """Whether a candidate that fools nobody is returned too, and not the original in its place."""
    runner: ClassVar[str]
    """``module:function`` of the function that :meth:`__call__` calls with the spec and its own arguments."""

    @property
    def label(self) -> str:
        """The name of the attack's column. For display alone."""
        return self.brief

    @property
    def brief(self) -> str:
        """The spec with what is not the default, as a person would type it."""
        return ":".join(filter(None, (self.name, self._changed())))

    def _changed(self, *, hide: Sequence[str] = ()) -> str:
        values = self.options()
        return ",".join(
            f"{field.name}={values[field.name]}"
            for field in fields(self)  # type: ignore[arg-type]
            if field.name not in hide and getattr(self, field.name) != field.default
        )

    @property
    def canonical(self) -> str:
        """The spec with all options written out, which :func:`parse_attack` reads back as an equal spec.

        Options that the attack resolves by itself (from the norm, the number of classes or its other options) are
        written ``auto``.
        """
        named = self.named_options()
        return (
            f"{self.name}:{','.join(f'{key}={_text(value)}' for key, value in named.items())}" if named else self.name
        )

    def named_options(self) -> dict[str, Any]:
        """Return the options that follow the name in a spec."""
        return self.options()

    def options(self) -> dict[str, Any]:
        """Return the options with exact numbers as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {key: format_fraction(v) if isinstance(v, Fraction) else v for key, v in values.items()}

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return everything that decides what this attack does, defaults resolved, as plain data."""
        return {"attack": self.name, "implementation": self.implementation, **self.options()}

    def stages(self, threat: Ball, *, num_classes: int) -> tuple[AttackSpec, ...]:
        """Return the attacks that this one is made of, each run on the samples that the ones before left."""
        return (self,)

    @property
    def averages(self) -> bool:
        """Whether the attack averages over several evaluations of a model that answers at random."""
        return False

    @property
    def length(self) -> int | None:
        """The number of gradient steps of a run; None for attacks without such steps, or with an unknown number."""
        return None

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms that the attack searches in."""
        return NORMS

    def check(self, threat: Ball) -> None:
        """Check that the attack searches in the threat model's norm.

        Raises:
            UserError: it is made for another one.
        """
        if threat.norm not in self.norms:
            raise UserError(
                f"{self.name} searches in {' or '.join(self.norms)}, and the threat model is {threat.norm}; "
                f"give --norm {self.norms[0]} or another attack"
            )

    def calls(self, threat: Ball, *, num_classes: int) -> Calls | None:
        """Return the model calls for a sample that the attack does not break; None where nothing is known of them."""
        return None

    def reference(self, threat: Ball) -> AttackSpec:
        """Return the published implementation of this attack.

        Raises:
            UserError: there is none, or none for this norm.
        """
        raise UserError(f"--engine reference has no published implementation of {self.name}; use --engine native")

    def __call__(
        self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise
    ) -> Tensor:
        """Return candidate images (B, C, H, W), one for each of ``images``.

        Args:
            model: images (B, C, H, W) in [0, 1] to logits (B, K), in eval mode.
            images: (B, C, H, W) float32 in [0, 1].
            labels: (B,) int64.
            threat: what is allowed; the caller checks it again.
            noise: the samples' random numbers.
        """
        candidates: Tensor = load_object(self.runner)(self, model, images, labels, threat, noise=noise)
        return candidates


class SearchSpec(AttackSpec):
    """An attack of our own: runs of a search, which the engine drives over many samples at once."""

    runner: ClassVar[str] = "robustbench_gkl.attacks.search.in_memory:propose"
    searcher: ClassVar[str]
    """``module:function`` of the function from a space and the spec to the search."""
    looks_ahead: ClassVar[bool] = False
    """Whether slots without a sample of their own are of use to the search."""
    kernels_save: ClassVar[float] = 0.0
    """Seconds that compiled kernels save for each number put through the model, roughly; 0 where there are none."""

    @abstractmethod
    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return how many runs a sample goes through unless it falls: restarts or targets."""

    def search(self, space: Space) -> Search:
        """Return a search of this attack; imports its code."""
        search: Search = load_object(self.searcher)(space, self)
        return search


def _check(name: str, factory: Callable[..., AttackSpec]) -> None:
    """Check that a class can be a spec; a function's specs are looked at when it is called."""
    if not inspect.isclass(factory):
        check_keywords("attack", name, factory, ())
        return
    if not issubclass(factory, AttackSpec):
        raise UserError(f"attack {name!r} must be derived from AttackSpec, got {factory.__name__}")
    if not is_dataclass(factory) or not factory.__dataclass_params__.frozen:
        raise UserError(
            f"attack {name!r} must be a frozen dataclass: put @dataclass(frozen=True) below the registration"
        )
    if getattr(factory, "name", None) is None:
        raise UserError(f"attack {name!r} needs a class variable name, as in a spec")
    runs = hasattr(factory, "runner") or factory.__call__ is not AttackSpec.__call__
    if not runs and factory.stages is AttackSpec.stages:
        raise UserError(f'attack {name!r} needs a __call__, or runner = "module:function"')


ATTACKS: Registry[Callable[..., AttackSpec]] = Registry("attack", "robustbench_gkl.attacks.specs", check=_check)


def parse_attack(spec: str) -> AttackSpec:
    """Return the attack that ``NAME`` or ``NAME:key=value,key=value`` describes.

    The value ``auto`` leaves an option to the attack where it can be left out.

    Raises:
        UserError: unknown name or option, a malformed spec, or a value out of range.
    """
    name, colon, text = spec.partition(":")
    factory, parameters = ATTACKS.resolve(name)
    known = inspect.signature(factory).parameters
    options: dict[str, object] = {}
    positional = getattr(factory, "positional", None)
    for number, item in enumerate(text.split(",") if colon else ()):
        if number == 0 and positional is not None and "=" not in item:
            item = f"{positional}={item}"
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise UserError(f"attack spec {spec!r}: expected NAME:key=value,key=value, got {item!r}")
        if key in options:
            raise UserError(f"attack spec {spec!r}: {key} is given twice")
        unset = value == _UNSET and key in known and known[key].default is None
        options[key] = None if unset else value
    return bind_options(factory, options, what=f"attack {name}", **parameters)


def attacks_to_run(
    specs: Sequence[str | AttackSpec], threat: Ball, *, reference: bool
) -> list[tuple[AttackSpec, AttackSpec]]:
    """Return the attacks, each with what runs of it: itself, or its published implementation if ``reference``.

    Raises:
        UserError: an unknown attack, one that is given twice, one for another norm, or one without the published
            implementation that is asked for.
    """
    attacks = [parse_attack(spec) if isinstance(spec, str) else spec for spec in specs]
    labels = [attack.label for attack in attacks]
    for attack in attacks:
        if labels.count(attack.label) > 1:
            raise UserError(f"the attack {attack.label} is given twice; give each once")
        attack.check(threat)
    return [(attack, attack.reference(threat) if reference else attack) for attack in attacks]


def canonical_specs(specs: Sequence[str]) -> tuple[str, ...]:
    """Return the canonical form of each spec.

    Raises:
        UserError: as :func:`parse_attack`.
    """
    return tuple(parse_attack(spec).canonical for spec in specs)


def protocol_of(attacks: Sequence[AttackSpec], threat: Ball, *, num_classes: int) -> list[dict[str, Any]]:
    """Return the settings of each attack and of its stages, which together define what was measured."""
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


def _text(value: object) -> str:
    if value is None:
        return _UNSET
    return str(value).lower() if isinstance(value, bool) else str(value)
