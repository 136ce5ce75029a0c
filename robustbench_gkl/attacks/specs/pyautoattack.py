"""Specs of AutoAttack and its members as pyautoattack runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from robustbench_gkl.attacks.specs.base import AttackSpec, Ball
from robustbench_gkl.core.errors import UserError

PUBLISHED: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The members' names in pyautoattack."""


@dataclass(frozen=True)
class PyAutoAttack(AttackSpec):
    """One member of AutoAttack, run by pyautoattack as published.

    Args:
        member: such as ``"apgd-ce"``.
        version: the version of AutoAttack whose budget is used.
    """

    implementation: ClassVar[str] = "pyautoattack"
    returns_failures: ClassVar[bool] = False
    runner: ClassVar[str] = "robustbench_gkl.attacks.published.pyautoattack:propose"

    member: str
    version: str

    @property
    def name(self) -> str:  # type: ignore[override]
        """The member's name."""
        return self.member

    @property
    def label(self) -> str:
        """The member's name."""
        return self.member

    @property
    def family(self) -> str:  # type: ignore[override]
        """``apgd``, ``fab`` or ``square``."""
        return self.member.partition("-")[0]

    @property
    def gradients(self) -> bool:  # type: ignore[override]
        """Whether the member uses gradients: all but Square do."""
        return self.member != "square"

    @property
    def targeted(self) -> bool:  # type: ignore[override]
        """Whether the member aims at classes."""
        return self.member.endswith("-t")

    @property
    def averages(self) -> bool:
        """Whether the budget is that for randomised models."""
        return self.version == "rand"

    @property
    def length(self) -> int | None:
        """The number of gradient steps, 100 in all versions."""
        return 100 if self.gradients else None

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the published budget, the number of targets and what replaces losses that need more classes."""
        values: dict[str, Any] = {
            "attack": self.member,
            "implementation": self.implementation,
            "budget": self.version,
        }
        if self.targeted:
            values["targets"] = self.targets(threat, num_classes=num_classes)
        if self.needs_margin(num_classes):
            values["loss"] = "margin, since the DLR loss needs more classes"
        return values

    def targets(self, threat: Ball, *, num_classes: int) -> int:
        """Return the number of target classes."""
        few = self.member == "apgd-t" and threat.norm == "l1" and self.version == "standard"
        return min(5 if few else 9, num_classes - 1)

    def needs_margin(self, num_classes: int) -> bool:
        """Return whether the member's DLR loss needs more classes than there are."""
        return num_classes < {"apgd-t": 4, "apgd-dlr": 3}.get(self.member, 0)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return itself."""
        return self


@dataclass(frozen=True)
class Ensemble(AttackSpec):
    """What AutoAttack is called in a version, whoever runs its members.

    Args:
        version: such as ``standard``.
    """

    name: ClassVar[str] = "autoattack"
    family: ClassVar[str] = "autoattack"

    version: str

    @property
    def label(self) -> str:
        """``autoattack``, or ``autoattack-plus``."""
        return "autoattack" if self.version == "standard" else f"autoattack-{self.version}"

    @property
    def averages(self) -> bool:
        """Whether the members average over random answers."""
        return self.version == "rand"


@dataclass(frozen=True)
class PublishedAutoAttack(Ensemble):
    """pyautoattack's ensemble, member by member on what is left.

    Args:
        version: ``standard``, ``plus`` or ``rand``.
    """

    implementation: ClassVar[str] = "pyautoattack"

    def stages(self, threat: Ball, *, num_classes: int) -> tuple[AttackSpec, ...]:
        """Return the members in the published order."""
        return tuple(PyAutoAttack(member, self.version) for member in PUBLISHED[self.version])


def published_member(attack: AttackSpec, *, published: bool) -> PyAutoAttack:
    """Return pyautoattack's version of ``attack`` with the budget of ``standard``.

    Args:
        attack: a member of AutoAttack.
        published: whether its options are the published ones.

    Raises:
        UserError: they are not: pyautoattack has no others.
    """
    if not published:
        members = ", ".join(sorted({member for members in PUBLISHED.values() for member in members}))
        raise UserError(
            f"--engine reference runs {members} with their published options, got {attack.label}; use --engine native"
        )
    return PyAutoAttack(attack.name, "standard")
