"""Specs of APGD: on an untargeted objective, and on the DLR loss towards each runner-up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball, Count, SearchSpec
from robustbench_gkl.attacks.specs.objectives import ObjectiveName, substitution
from robustbench_gkl.attacks.specs.pyautoattack import published_member
from robustbench_gkl.core.calls import Calls

RHO = 0.75
"""Share of a window's steps that must raise the objective, or the step size is halved."""

_PUBLISHED_L1_RESTARTS = 5
_PUBLISHED_TARGETS = {"linf": 9, "l2": 9, "l1": 5}


def _schedule(threat: Ball, *, widened: bool) -> dict[str, Any]:
    return {"rho": RHO, "widened": widened and threat.norm == "l1"}


@ATTACKS.register("apgd")
@dataclass(frozen=True)
class APGD(SearchSpec):
    """APGD on an objective of choice (arXiv 2003.01690; for l1 2103.01208).

    Args:
        objective: ``ce``, ``margin``, ``prob-margin`` or ``dlr``.
        steps: number of gradient steps.
        restarts: random starts; None for 1, and 5 for l1.
        evaluations: gradients averaged per step, for randomised models.
        widened: for l1, go through balls of three and two times the radius first.
    """

    family: ClassVar[str] = "apgd"
    searcher: ClassVar[str] = "robustbench_gkl.attacks.apgd:apgd_search"

    objective: ObjectiveName = "ce"
    steps: Count = 100
    restarts: Count | None = None
    evaluations: Count = 1
    widened: bool = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """``apgd-OBJECTIVE``."""
        return f"apgd-{self.objective}"

    @property
    def brief(self) -> str:
        """The name, followed by what is not the default."""
        return ":".join(filter(None, (self.name, self._changed(hide=["objective"]))))

    def named_options(self) -> dict[str, Any]:
        """Return all options but the objective, which the name gives."""
        return {key: value for key, value in self.options().items() if key != "objective"}

    @property
    def averages(self) -> bool:
        """Whether a step averages several gradients."""
        return self.evaluations > 1

    @property
    def length(self) -> int:
        """The number of gradient steps."""
        return self.steps

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the settings with the restarts resolved, and the objective that stands in for one."""
        resolved = {"restarts": self.runs(threat, num_classes=num_classes)}
        schedule = _schedule(threat, widened=self.widened)
        replaced = substitution(self.objective, num_classes=num_classes)
        return super().settings(threat, num_classes=num_classes) | resolved | schedule | replaced

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return a forward and a backward pass for each gradient."""
        every = self.steps * self.runs(threat, num_classes=num_classes) * self.evaluations
        return Calls(forwards=every, backwards=every)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return pyautoattack's, which has the cross-entropy and the DLR loss."""
        return published_member(self, published=self.objective in ("ce", "dlr") and self == APGD(self.objective))

    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return the restarts."""
        return self.restarts or (_PUBLISHED_L1_RESTARTS if threat.norm == "l1" else 1)


@ATTACKS.register("apgd-t")
@dataclass(frozen=True)
class TargetedAPGD(SearchSpec):
    """APGD on the targeted DLR loss, towards each of the likeliest other classes in turn (arXiv 2003.01690).

    Args:
        steps: number of gradient steps.
        targets: number of classes, no more than there are; None for 9, and 5 for l1.
        widened: for l1, go through balls of three and two times the radius first.
    """

    name: ClassVar[str] = "apgd-t"
    family: ClassVar[str] = "apgd"
    targeted: ClassVar[bool] = True
    searcher: ClassVar[str] = "robustbench_gkl.attacks.apgd:targeted_search"

    steps: Count = 100
    targets: Count | None = None
    widened: bool = True

    @property
    def length(self) -> int:
        """The number of gradient steps."""
        return self.steps

    def settings(self, threat: Ball, *, num_classes: int) -> dict[str, Any]:
        """Return the settings with the targets resolved, and the loss that stands in for the DLR loss."""
        values = super().settings(threat, num_classes=num_classes) | _schedule(threat, widened=self.widened)
        values["targets"] = self.runs(threat, num_classes=num_classes)
        if num_classes < 4:
            values["objective"] = "margin, since the targeted DLR loss needs four classes"
        return values

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return a forward and a backward pass a step."""
        every = self.steps * self.runs(threat, num_classes=num_classes)
        return Calls(forwards=every, backwards=every)

    def reference(self, threat: Ball) -> AttackSpec:
        """Return pyautoattack's."""
        return published_member(self, published=self == TargetedAPGD())

    def runs(self, threat: Ball, *, num_classes: int) -> int:
        """Return the number of targets."""
        return min(self.targets or _PUBLISHED_TARGETS[threat.norm], num_classes - 1)


def _apgd_on(objective: ObjectiveName) -> Callable[..., APGD]:
    def apgd(steps: Count = 100, restarts: Count | None = None, evaluations: Count = 1, widened: bool = True) -> APGD:
        return APGD(objective, steps, restarts, evaluations, widened)

    apgd.__doc__ = f"APGD on the objective {objective}, 100 steps (arXiv 2003.01690)."
    return apgd


for _objective in get_args(ObjectiveName):
    ATTACKS.register(f"apgd-{_objective}")(_apgd_on(_objective))
