"""AutoAttack (Croce and Hein, arXiv 2003.01690, 2103.01208): the ensemble of APGD, FAB and Square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robustbench_gkl.attacks.specs.apgd import APGD, TargetedAPGD
from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball
from robustbench_gkl.attacks.specs.fab import FAB, TargetedFAB
from robustbench_gkl.attacks.specs.pyautoattack import Ensemble, PublishedAutoAttack
from robustbench_gkl.attacks.specs.square import Square
from robustbench_gkl.core.calls import Calls

Version = Literal["standard", "plus", "rand", "quick"]

_MEMBERS: dict[Version, tuple[AttackSpec, ...]] = {
    "standard": (APGD("ce"), TargetedAPGD(), TargetedFAB(), Square()),
    "plus": (
        APGD("ce", restarts=5, widened=False),
        APGD("dlr", restarts=5, widened=False),
        FAB(),
        Square(),
        TargetedAPGD(targets=9, widened=False),
        TargetedFAB(),
    ),
    "rand": (
        APGD("ce", restarts=1, evaluations=20, widened=False),
        APGD("dlr", restarts=1, evaluations=20, widened=False),
    ),
    # Chosen by measurement: under 5 % of the model calls of standard, and within 0.3 points of it.
    "quick": (
        APGD("ce", steps=10, restarts=1),
        APGD("prob-margin", steps=50, restarts=1),
        APGD("dlr", steps=25, restarts=1),
        TargetedAPGD(steps=25, targets=3),
        TargetedFAB(steps=10, targets=2),
    ),
}


@ATTACKS.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Ensemble):
    """The ensemble of APGD, FAB and Square that robustness is compared by (arXiv 2003.01690).

    Args:
        version: ``standard``, ``plus`` (more restarts and the untargeted attacks too), ``rand`` (for randomised
            models: APGD over 20 evaluations a gradient), or ``quick``, which is not AutoAttack: four short APGD runs,
            the second on the probability margin (arXiv 2411.15210), and a shorter one of FAB, for looking at a model
            while it is being made.
    """

    version: Version = "standard"

    def stages(self, threat: Ball, *, num_classes: int) -> tuple[AttackSpec, ...]:
        """Return the members in the published order."""
        return _MEMBERS[self.version]

    def calls(self, threat: Ball, *, num_classes: int) -> Calls:
        """Return the calls of all members."""
        members = (member.calls(threat, num_classes=num_classes) for member in _MEMBERS[self.version])
        return sum((calls for calls in members if calls is not None), Calls())

    def reference(self, threat: Ball) -> AttackSpec:
        """Return pyautoattack's ensemble.

        Raises:
            UserError: ``quick``, which was never published.
        """
        if self.version == "quick":
            return super().reference(threat)
        return PublishedAutoAttack(self.version)
