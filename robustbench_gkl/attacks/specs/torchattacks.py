"""Specs of torchattacks' classes, with the norm that each is made for."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball
from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.exact import PUBLISHED_NORMS, format_fraction


@dataclass(frozen=True)
class TorchAttackClass:
    """The facts about a class of torchattacks, known without importing it.

    Attributes:
        norms: the norms that it searches in.
        gradients: whether it uses gradients of the model.
        targeted: whether it aims at several classes, one after the other.
        minimal: whether it looks for the nearest adversarial image, which may well lie outside the ball.
    """

    norms: tuple[str, ...]
    gradients: bool = True
    targeted: bool = False
    minimal: bool = False


_LINF = (
    *("BIM", "DIFGSM", "EOTPGD", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "PGDRS", "PIFGSM"),
    *("PIFGSMPP", "RFGSM", "SINIFGSM", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM"),
)

CLASSES: dict[str, TorchAttackClass] = {
    **dict.fromkeys(_LINF, TorchAttackClass(("linf",))),
    "SPSA": TorchAttackClass(("linf",), gradients=False),
    "PGDL2": TorchAttackClass(("l2",)),
    "PGDRSL2": TorchAttackClass(("l2",)),
    "CW": TorchAttackClass(("l2",), minimal=True),
    "DeepFool": TorchAttackClass(("l2",), minimal=True),
    "EADL1": TorchAttackClass(("l1",), minimal=True),
    "EADEN": TorchAttackClass(("l1", "l2"), minimal=True),
    "APGD": TorchAttackClass(("linf", "l2")),
    "APGDT": TorchAttackClass(("linf", "l2"), targeted=True),
    "AutoAttack": TorchAttackClass(("linf", "l2"), targeted=True),
    "Square": TorchAttackClass(("linf", "l2"), gradients=False),
    "FAB": TorchAttackClass(("linf", "l2"), minimal=True),  # its l1 form ends in an error
}
"""The classes that can be evaluated."""

_REFUSED = {
    **dict.fromkeys(("JSMA", "OnePixel", "Pixle", "SparseFool"), "it changes few pixels by any amount (l0)"),
    "GN": "it adds noise of no norm; every evaluation tries random noise by itself (the check noise-baseline)",
    "VANILA": "it proposes no images; give --attack none for the clean accuracy",
    "MultiAttack": "it wraps other attacks; give --attack once for each of them",
    "LGV": "it trains models of its own, which a spec cannot describe",
}
"""The classes that cannot, and why."""

_FROM_THREAT = {"eps": "eps", "max_epsilon": "eps", "norm": "norm"}
"""Options that the threat model gives, and the option of the command line that asks for them."""


@dataclass(frozen=True)
class TorchAttack(AttackSpec):
    """A torchattacks class with its keyword arguments, defaults included."""

    implementation: ClassVar[str] = "torchattacks"
    runner: ClassVar[str] = "robustbench_gkl.attacks.published.torchattacks:propose"

    cls: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """``torchattacks.CLASS``."""
        return f"torchattacks.{self.cls}"

    @property
    def family(self) -> str:  # type: ignore[override]
        """The name."""
        return self.name

    @property
    def gradients(self) -> bool:  # type: ignore[override]
        """Whether the class uses gradients."""
        return CLASSES[self.cls].gradients

    @property
    def targeted(self) -> bool:  # type: ignore[override]
        """Whether the class aims at several classes."""
        return CLASSES[self.cls].targeted

    @property
    def minimal(self) -> bool:  # type: ignore[override]
        """Whether the class looks for the nearest adversarial image."""
        return CLASSES[self.cls].minimal

    @property
    def returns_failures(self) -> bool:  # type: ignore[override]
        """Whether failures are returned: those of the ensemble and of minimal attacks are the originals."""
        return not self.minimal and self.cls != "AutoAttack"

    @property
    def averages(self) -> bool:
        """Whether a step averages several gradients."""
        arguments = dict(self.arguments)
        return int(arguments.get("eot_iter", 1)) > 1 or arguments.get("version") == "rand"

    @property
    def length(self) -> int | None:
        """The number of steps, if the class has such an option."""
        arguments = dict(self.arguments)
        steps = arguments.get("steps", arguments.get("num_iter_set"))
        return steps if isinstance(steps, int) and self.gradients else None

    @property
    def brief(self) -> str:
        """The spec with what is not the default."""
        defaults = _parameters(self.cls)
        changed = [f"{key}={value}" for key, value in self.arguments if defaults.get(key) != value]
        return ":".join(filter(None, (self.name, ",".join(changed))))

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments."""
        return dict(self.arguments)

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the class and all arguments, defaults included, as text."""
        defaults = _parameters(self.cls)
        values = {key: str(value) for key, value in (defaults | dict(self.arguments)).items()}
        given = {"eps": format_fraction(threat.eps), "norm": PUBLISHED_NORMS[threat.norm]}
        values |= {key: given[option] for key, option in _FROM_THREAT.items() if key in defaults}
        return {"attack": self.name, "implementation": self.implementation, **values}

    def keywords(self, threat: Ball) -> dict[str, Any]:
        """Return the keyword arguments of the class, with those that the threat model gives."""
        given = {"eps": float(threat.eps), "norm": PUBLISHED_NORMS[threat.norm]}
        known = _parameters(self.cls)
        return dict(self.arguments) | {key: given[option] for key, option in _FROM_THREAT.items() if key in known}

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms that the class searches in."""
        return CLASSES[self.cls].norms

    def reference(self, threat: Ball) -> AttackSpec:
        """Return itself."""
        return self


def import_torchattacks() -> ModuleType:
    """Return the package torchattacks, which imports torch.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("torchattacks")
    except ImportError:
        raise UserError("torchattacks is not installed; pip install 'gklbench[torchattacks]'") from None


@cache
def _parameters(cls: str) -> dict[str, Any]:
    """Return the options of a class and their defaults; imports torchattacks.

    Raises:
        UserError: it is not installed.
    """
    parameters = list(inspect.signature(getattr(import_torchattacks(), cls).__init__).parameters.values())[2:]
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


def _literal(text: str) -> Any:
    """Return ``text`` as the integer, fraction, truth value or word that it spells."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, float):
        with contextlib.suppress(ValueError):
            return convert(text)
    top, slash, bottom = text.partition("/")
    with contextlib.suppress(ValueError, ZeroDivisionError):
        return float(top) / float(bottom) if slash else text
    return text


_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a number", (int, float)),  # some options with a whole default are numbers, such as CW's c
    float: ("a number", (int, float)),
    str: ("a word", (str,)),
    type(None): ("a finite number", ()),
}
"""What an option may be by the kind of its default."""


def _checked(cls: str, key: str, text: str, default: Any) -> Any:
    """Return an option's value, which must be of the kind of its default."""
    value = _literal(text)
    finite = not isinstance(value, float) or math.isfinite(value)
    if default is None and finite:
        return value
    kind, fits = _KINDS.get(type(default), ("", ()))
    if not kind:
        raise UserError(f"torchattacks.{cls}: {key} cannot be written in a spec; leave it out")
    if type(value) not in fits or not finite:
        raise UserError(f"torchattacks.{cls}: {key} must be {kind}, such as {default}, got {text!r}")
    return float(value) if isinstance(default, float) else value


def _written(value: Any) -> bool:
    """Whether a value survives being written into a spec and read back."""
    plain = isinstance(value, (bool, int, float, str)) and not set(str(value)) & set(",=:")
    return plain and _literal(str(value)) == value


@ATTACKS.register("torchattacks.CLASS", pattern=r"torchattacks\.(?P<cls>\w+)")
def torch_attack(cls: str, **options: str) -> TorchAttack:
    """Any attack class of torchattacks, as published (arXiv 2010.01950)."""
    if cls in _REFUSED:
        raise UserError(f"torchattacks.{cls} cannot be evaluated: {_REFUSED[cls]}")
    if cls not in CLASSES:
        raise unknown("torchattacks class", cls, CLASSES)
    defaults = _parameters(cls)
    values = {key: default for key, default in defaults.items() if key not in _FROM_THREAT and _written(default)}
    for key, text in options.items():
        if key in _FROM_THREAT and key in defaults:
            raise UserError(f"torchattacks.{cls}: {key} is the threat model's; give it as --{_FROM_THREAT[key]}")
        if key not in defaults:
            raise unknown(f"option of torchattacks.{cls}", key, set(defaults) - set(_FROM_THREAT))
        values[key] = _checked(cls, key, text, defaults[key])
    return TorchAttack(cls, tuple(values.items()))
