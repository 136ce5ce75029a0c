"""Adapters to the published implementations: pyautoattack and torchattacks.

Both draw from torch's global generator, seeded here for each batch, so that their results depend on the batch size;
the record names the implementation.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from robustbench_gkl.attacks.base import ATTACKS, Attack, Model
from robustbench_gkl.errors import UserError, unknown
from robustbench_gkl.exact import format_fraction
from robustbench_gkl.noise import Noise
from robustbench_gkl.threat import ThreatModel

if TYPE_CHECKING:
    from robustbench_gkl.attacks.autoattack import Version
    from robustbench_gkl.attacks.pgd import FGSM, PGD

_PUBLISHED_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class _Contiguous(nn.Module):
    """The model as other people's code expects it: a module that takes and gives contiguous tensors."""

    def __init__(self, model: Model, device: torch.device) -> None:
        super().__init__()
        self._model = [model]
        self.anchor = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return self._model[0](images.contiguous()).float()


@contextlib.contextmanager
def _quiet_and_seeded(noise: Noise, device: torch.device) -> Iterator[int]:
    """Keep prints and log lines of the block away, and torch's global random state as it was."""
    seed = int(noise.at("external").bits()[0]) & 0x7FFFFFFF
    logger = logging.getLogger("auto-attack")
    disabled, logger.disabled = logger.disabled, True
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(seed)
            yield seed
    finally:
        logger.disabled = disabled


@dataclass(frozen=True)
class PyAutoAttack(Attack):
    """One member of AutoAttack, run by pyautoattack as published.

    Args:
        member: such as ``"apgd-ce"``.
        version: the version of AutoAttack whose budget is used.
    """

    implementation: ClassVar[str] = "pyautoattack"

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

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the published budget, the number of targets and what replaces losses that need more classes."""
        values: dict[str, Any] = {
            "attack": self.member,
            "implementation": self.implementation,
            "budget": self.version,
        }
        if self.member in ("apgd-t", "fab-t"):
            values["targets"] = min(self._targets(threat), num_classes - 1)
        if self._needs_margin(num_classes):
            values["loss"] = "margin, since the DLR loss needs more classes"
        return values

    def _targets(self, threat: ThreatModel) -> int:
        few = self.member == "apgd-t" and threat.norm == "l1" and self.version == "standard"
        return 5 if few else 9

    def _needs_margin(self, num_classes: int) -> bool:
        return num_classes < {"apgd-t": 4, "apgd-dlr": 3}.get(self.member, 0)

    def reference(self, threat: ThreatModel) -> Attack:
        """Return itself."""
        return self

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        """Return pyautoattack's images; those it could not break come back unchanged."""
        from pyautoattack import AutoAttack as Published

        device = images.device
        with torch.no_grad():
            num_classes = model(images[:1]).shape[1]
        with _quiet_and_seeded(noise.at(self.member), device) as seed:
            published = Published(
                _Contiguous(model, device),
                norm=_PUBLISHED_NORM[threat.norm],
                eps=threat.radius,
                seed=seed,
                version=self.version,
                device=device,
            )
            published.attacks_to_run = [self.member]
            targets = min(self._targets(threat), num_classes - 1)
            published.apgd_targeted.n_target_classes = targets
            published.fab.n_target_classes = targets
            if self._needs_margin(num_classes):
                _use_margin(published)
            candidates, _ = published.run_standard_evaluation(images.contiguous(), labels, batch_size=images.shape[0])
        return torch.as_tensor(candidates)


@dataclass(frozen=True)
class PublishedAutoAttack(Attack):
    """pyautoattack's ensemble, member by member on what is left.

    Args:
        version: ``standard``, ``plus`` or ``rand``.
    """

    name: ClassVar[str] = "autoattack"
    implementation: ClassVar[str] = "pyautoattack"

    version: Version

    @property
    def label(self) -> str:
        """``autoattack``, or ``autoattack-plus``."""
        return "autoattack" if self.version == "standard" else f"autoattack-{self.version}"

    def stages(self, threat: ThreatModel, *, num_classes: int) -> tuple[Attack, ...]:
        """Return the members in the published order."""
        from robustbench_gkl.attacks.autoattack import PUBLISHED

        return tuple(PyAutoAttack(member, self.version) for member in PUBLISHED[self.version])

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        """Refuse: the members are run one after the other on what is left."""
        raise NotImplementedError("run the stages")


def pyautoattack_member(attack: Attack) -> PyAutoAttack:
    """Return pyautoattack's version of ``attack`` with the budget of ``standard``.

    Raises:
        UserError: options or an objective that pyautoattack does not have.
    """
    from robustbench_gkl.attacks.base import parse_attack

    published = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
    if attack.name not in published or attack != parse_attack(attack.name):
        raise UserError(
            f"--engine reference runs {', '.join(published)} with their published options, got {attack.label}; "
            "use --engine native"
        )
    return PyAutoAttack(attack.name, "standard")


def _use_margin(published: Any) -> None:
    """Replace the DLR losses by the margins that they normalise, which exist for two classes."""
    targeted = published.apgd_targeted

    def to_target(logits: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(len(labels), device=labels.device)
        return logits[rows, targeted.y_target] - logits[rows, labels]

    def to_runner_up(logits: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(len(labels), device=labels.device)
        others = logits.scatter(1, labels[:, None], -math.inf)
        return others.amax(1) - logits[rows, labels]

    targeted.dlr_loss_targeted = to_target
    published.apgd.dlr_loss = to_runner_up


@dataclass(frozen=True)
class TorchAttack(Attack):
    """A torchattacks class with its keyword arguments."""

    implementation: ClassVar[str] = "torchattacks"

    cls: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """``torchattacks.CLASS``."""
        return f"torchattacks.{self.cls}"

    @property
    def label(self) -> str:
        """The spec."""
        return ":".join(filter(None, (self.name, ",".join(f"{key}={value}" for key, value in self.arguments))))

    def settings(self, threat: ThreatModel, *, num_classes: int) -> dict[str, Any]:
        """Return the class, its version and all arguments, defaults included."""
        package = importlib.import_module("torchattacks")
        signature = inspect.signature(getattr(package, self.cls).__init__)
        defaults = {
            key: parameter.default
            for key, parameter in signature.parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        values = {key: str(value) for key, value in (defaults | dict(self.arguments)).items()}
        if "eps" in defaults:
            values["eps"] = format_fraction(threat.eps)
        return {"attack": self.name, "implementation": self.implementation, **values}

    def reference(self, threat: ThreatModel) -> Attack:
        """Return itself."""
        return self

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise) -> Tensor:
        """Return torchattacks' images; ``eps`` is the threat's wherever the class takes one."""
        package = importlib.import_module("torchattacks")
        cls = getattr(package, self.cls)
        arguments = dict(self.arguments)
        if "eps" in inspect.signature(cls.__init__).parameters:
            arguments["eps"] = threat.radius
        with _quiet_and_seeded(noise.at(self.name), images.device):
            attack = cls(_Contiguous(model, images.device).eval(), **arguments)
            return torch.as_tensor(attack(images.contiguous(), labels)).detach()


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


@ATTACKS.register("torchattacks.CLASS", pattern=r"torchattacks\.(?P<cls>\w+)")
def torch_attack(cls: str, **options: str) -> TorchAttack:
    """Any attack class of torchattacks, as published (arXiv 2010.01950)."""
    package = importlib.import_module("torchattacks")
    from torchattacks.attack import Attack as Base

    classes = [name for name, value in vars(package).items() if inspect.isclass(value) and issubclass(value, Base)]
    if cls not in classes:
        raise unknown("torchattacks class", cls, classes)
    known = list(inspect.signature(getattr(package, cls).__init__).parameters)[2:]
    for key in options:
        if key == "eps":
            raise UserError(f"torchattacks.{cls}: eps is the threat model's; give it as --eps")
        if key not in known:
            raise unknown(f"option of torchattacks.{cls}", key, known)
    return TorchAttack(cls, tuple((key, _literal(value)) for key, value in options.items()))


def torchattacks_pgd(attack: PGD, threat: ThreatModel) -> TorchAttack:
    """Return torchattacks' PGD (linf) or PGDL2 (l2) with the settings of ``attack``.

    Raises:
        UserError: l1, several restarts or another objective, which torchattacks does not have.
    """
    if threat.norm == "l1" or attack.restarts > 1 or attack.objective != "ce":
        raise UserError(
            "--engine reference runs pgd for linf and l2 with restarts=1 and objective=ce, "
            f"got {attack.label} for {threat.norm}; use --engine native"
        )
    from robustbench_gkl.attacks.pgd import default_step_size

    step_size = float(attack.step_size or default_step_size(threat, attack.steps))
    cls = {"linf": "PGD", "l2": "PGDL2"}[threat.norm]
    return TorchAttack(cls, (("alpha", step_size), ("steps", attack.steps)))


def torchattacks_fgsm(attack: FGSM, threat: ThreatModel) -> TorchAttack:
    """Return torchattacks' FGSM.

    Raises:
        UserError: another norm than linf or another objective than ce.
    """
    if threat.norm != "linf" or attack.objective != "ce":
        raise UserError(
            f"--engine reference runs fgsm for linf with objective=ce, got {attack.label} for {threat.norm}"
        )
    return TorchAttack("FGSM", ())
