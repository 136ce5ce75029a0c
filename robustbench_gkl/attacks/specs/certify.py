"""The spec of certificates: bounds, and branch and bound, which prove samples and may break them on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from robustbench_gkl.attacks.specs.base import ATTACKS, AttackSpec, Ball
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_gkl.core.noise import Noise
    from robustbench_gkl.core.threat import ThreatModel


@ATTACKS.register("certify")
@dataclass(frozen=True)
class Certify(AttackSpec):
    """Bounds of the network, and branch and bound where ``gklbench certify --complete`` asks for it.

    How far it goes is no part of the spec: a longer budget decides more samples and changes none that are decided.
    """

    name: ClassVar[str] = "certify"
    family: ClassVar[str] = "branch-and-bound"
    gradients: ClassVar[bool | None] = True
    returns_failures: ClassVar[bool] = False

    def reference(self, threat: Ball) -> AttackSpec:
        """Return nothing: no published package fits beside this torch.

        Raises:
            UserError: always.
        """
        raise UserError("certify has no published implementation; use --engine native")

    def __call__(
        self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise
    ) -> Tensor:
        """Return nothing: the engine reads the network itself.

        Raises:
            UserError: always.
        """
        raise UserError("certify reads the network itself and runs in an evaluation alone; use gklbench certify")
