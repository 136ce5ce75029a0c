"""AutoAttack (Croce and Hein, arXiv 2003.01690, 2103.01208): the ensemble and its members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_gkl.attacks.base import ATTACKS, Attack, Model
from robustbench_gkl.attacks.external import PyAutoAttack
from robustbench_gkl.noise import Noise
from robustbench_gkl.threat import ThreatModel

Version = Literal["standard", "plus", "rand"]

MEMBERS: dict[Version, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}


@ATTACKS.register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Attack):
    """The ensemble of APGD, FAB and Square that robustness is compared by (arXiv 2003.01690).

    Args:
        version: ``standard``, ``plus`` (more restarts and the untargeted attacks too) or ``rand`` (for randomised
            models: APGD over 20 evaluations a gradient).
    """

    name: ClassVar[str] = "autoattack"
    implementation: ClassVar[str] = "pyautoattack"

    version: Version = "standard"

    @property
    def label(self) -> str:
        """``autoattack``, or ``autoattack-plus``."""
        return "autoattack" if self.version == "standard" else f"autoattack-{self.version}"

    def stages(self, threat: ThreatModel, *, num_classes: int) -> tuple[Attack, ...]:
        """Return the members in the published order."""
        return tuple(PyAutoAttack(member, self.version) for member in MEMBERS[self.version])

    def reference(self, threat: ThreatModel) -> Attack:
        """Return itself: pyautoattack is what runs."""
        return self

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        """Refuse: the members are run one after the other on what is left."""
        raise NotImplementedError("run the stages")


def _member(name: str, summary: str) -> None:
    def build() -> Attack:
        return PyAutoAttack(name, "standard")

    build.__doc__ = summary
    ATTACKS.register(name)(build)


_member("apgd-ce", "APGD on the cross-entropy, 100 steps (arXiv 2003.01690).")
_member("apgd-dlr", "APGD on the difference of logits ratio, 100 steps (arXiv 2003.01690).")
_member("apgd-t", "APGD on the targeted DLR loss, 9 targets of 100 steps (arXiv 2003.01690).")
_member("fab", "FAB, a minimal-distance attack, 5 restarts of 100 steps (arXiv 1907.02044).")
_member("fab-t", "Targeted FAB, 9 targets of 100 steps (arXiv 1907.02044).")
_member("square", "Square Attack, 5,000 queries without gradients (arXiv 1912.00049).")
