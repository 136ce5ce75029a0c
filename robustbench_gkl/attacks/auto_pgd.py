"""The APGD attacks: on an untargeted objective, and on the DLR loss towards each runner-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from robustbench_gkl.attacks.apgd import RHO, APGDSearch, make_search
from robustbench_gkl.attacks.base import ATTACKS, Attack
from robustbench_gkl.attacks.native import SearchAttack
from robustbench_gkl.attacks.objectives import ObjectiveName, substitution, targeted, untargeted
from robustbench_gkl.attacks.search import Space
from robustbench_gkl.threat import ThreatModel

_PUBLISHED_L1_RESTARTS = 5
_PUBLISHED_TARGETS = {"linf": 9, "l2": 9, "l1": 5}

Count = Annotated[int, Field(ge=1)]


def _schedule(threat: ThreatModel, *, widened: bool) -> dict[str, Any]:
    return {"rho": RHO, "widened": widened and threat.norm == "l1"}


@ATTACKS.register("apgd")
@dataclass(frozen=True)
class APGD(SearchAttack):
    """APGD on an objective of choice (arXiv 2003.01690; for l1 2103.01208).

    Args:
        objective: ``ce``, ``margin``, ``prob-margin`` or ``dlr``.
        steps: number of gradient steps.
        restarts: random starts; None for 1, and 5 for l1.
        evaluations: gradients averaged per step, for randomised models.
        widened: for l1, go through balls of three and two times the radius first.
    """

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
    def label(self) -> str:
        """The name, followed by what is not the default."""
        return ":".join(filter(None, (self.name, self._changed(hide=["objective"]))))

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the settings with the restarts resolved, and the objective that stands in for one."""
        resolved = {"restarts": self.runs(threat, num_classes=num_classes)}
        schedule = _schedule(threat, widened=self.widened)
        replaced = substitution(self.objective, num_classes=num_classes)
        return super().settings(threat, num_classes=num_classes) | resolved | schedule | replaced

    def reference(self, threat: ThreatModel) -> Attack:
        """Return pyautoattack's, which has the cross-entropy and the DLR loss."""
        from robustbench_gkl.attacks.external import pyautoattack_member

        return pyautoattack_member(self)

    def runs(self, threat: ThreatModel, *, num_classes: int) -> int:
        """Return the restarts."""
        return self.restarts or (_PUBLISHED_L1_RESTARTS if threat.norm == "l1" else 1)

    def search(self, space: Space) -> APGDSearch:
        """Return the search for the threat's norm."""
        value = untargeted(self.objective, num_classes=space.num_classes)

        def loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
            return value(logits, labels)

        return make_search(space, loss=loss, steps=self.steps, widened=self.widened, evaluations=self.evaluations)


@ATTACKS.register("apgd-t")
@dataclass(frozen=True)
class TargetedAPGD(SearchAttack):
    """APGD on the targeted DLR loss, one run per runner-up class (arXiv 2003.01690).

    Args:
        steps: number of gradient steps.
        targets: number of classes, no more than there are; None for 9, and 5 for l1.
        widened: for l1, go through balls of three and two times the radius first.
    """

    name: ClassVar[str] = "apgd-t"
    targeted: ClassVar[bool] = True

    steps: Count = 100
    targets: Count | None = None
    widened: bool = True

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the settings with the targets resolved, and the loss that stands in for the DLR loss."""
        values = super().settings(threat, num_classes=num_classes) | _schedule(threat, widened=self.widened)
        values["targets"] = self.runs(threat, num_classes=num_classes)
        if num_classes < 4:
            values["objective"] = "margin, since the targeted DLR loss needs four classes"
        return values

    def reference(self, threat: ThreatModel) -> Attack:
        """Return pyautoattack's."""
        from robustbench_gkl.attacks.external import pyautoattack_member

        return pyautoattack_member(self)

    def runs(self, threat: ThreatModel, *, num_classes: int) -> int:
        """Return the number of targets."""
        return min(self.targets or _PUBLISHED_TARGETS[threat.norm], num_classes - 1)

    def search(self, space: Space) -> APGDSearch:
        """Return the search for the threat's norm."""
        loss = targeted(num_classes=space.num_classes)
        return make_search(space, loss=loss, steps=self.steps, widened=self.widened)


@ATTACKS.register("apgd-ce")
def apgd_ce(steps: Count = 100, restarts: Count | None = None, evaluations: Count = 1, widened: bool = True) -> APGD:
    """APGD on the cross-entropy, 100 steps (arXiv 2003.01690)."""
    return APGD("ce", steps, restarts, evaluations, widened)


@ATTACKS.register("apgd-dlr")
def apgd_dlr(steps: Count = 100, restarts: Count | None = None, evaluations: Count = 1, widened: bool = True) -> APGD:
    """APGD on the difference of logits ratio, 100 steps (arXiv 2003.01690)."""
    return APGD("dlr", steps, restarts, evaluations, widened)
