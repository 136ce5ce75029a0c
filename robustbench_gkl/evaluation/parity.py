"""Our own attacks against the published implementations, on the same samples in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import AttackSpec
from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.core.device import device_of, full_precision
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.core.timing import processor_seconds, time_calls
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.progress import Progress
from robustbench_gkl.results.record import StageResult

_SECONDS = 1.0
"""For which each kind of model call is timed."""


@dataclass(frozen=True)
class BareCost:
    """Seconds that the model alone takes per image, at a batch size."""

    forward: float
    both: float

    def of(self, evaluation: Evaluation) -> float:
        """Return the seconds that the model calls of ``evaluation`` take with nothing around them."""
        forwards, backwards = calls(evaluation)
        return self.both * backwards + self.forward * (forwards - backwards)


@dataclass(frozen=True)
class ParityComparison:
    """One attack by our own engine and by the published implementation.

    Attributes:
        label: the attack.
        native, reference: the outcomes with the same seed.
        second: the published implementation with another seed; None if it was not run.
        bare: the cost of model calls alone.
        processor_seconds: of native and reference, all threads and processes together; less disturbed by other programs
            than wall time, but blind to a GPU.
    """

    label: str
    native: Evaluation
    reference: Evaluation
    second: Evaluation | None
    bare: BareCost
    processor_seconds: tuple[float, float]

    @property
    def agreement(self) -> float:
        """Share of samples on which both give the same verdict, in percent."""
        return _agreement(self.native, self.reference)

    @property
    def own_agreement(self) -> float | None:
        """The same between the published implementation and itself with another seed."""
        return None if self.second is None else _agreement(self.reference, self.second)

    @property
    def speed_up(self) -> float:
        """How many times as fast the native engine is."""
        return self.reference.seconds / max(self.native.seconds, 1e-9)

    @property
    def over_bare(self) -> float:
        """The native engine's time over that of its model calls alone."""
        return self.native.seconds / max(self.bare.of(self.native), 1e-9)


def compare_engines(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    attack: AttackSpec,
    *,
    seed: int = 0,
    batch_size: int = 250,
    second_seed: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
) -> ParityComparison:
    """Run ``attack`` by our own engine and as published, on the same samples.

    Args:
        model, images, labels, threat: as for :func:`~robustbench_gkl.evaluation.evaluate`.
        attack: one that has a published implementation.
        seed: of both.
        batch_size: of both.
        second_seed: run the published implementation with ``seed + 1`` too.
        on_progress: called a few times a second.

    Raises:
        UserError: no published implementation; anything that :func:`~robustbench_gkl.evaluation.evaluate` refuses.
    """
    attack.reference(threat)

    def run(*, reference: bool, seed: int) -> Evaluation:
        settings = EngineSettings(seed, batch_size, reference)
        return measure(model, images, labels, threat, [attack], settings, on_progress=on_progress)

    began = processor_seconds()
    native = run(reference=False, seed=seed)
    native_seconds = processor_seconds() - began
    shape = (images.shape[1], images.shape[2], images.shape[3])
    bare = bare_cost(model, shape, batch_size=max(1, min(batch_size, int((native.clean_pred == native.label).sum()))))
    began = processor_seconds()
    reference = run(reference=True, seed=seed)
    return ParityComparison(
        label=attack.label,
        native=native,
        processor_seconds=(native_seconds, processor_seconds() - began),
        reference=reference,
        second=run(reference=True, seed=seed + 1) if second_seed else None,
        bare=bare,
    )


def bare_cost(model: nn.Module, shape: tuple[int, int, int], *, batch_size: int) -> BareCost:
    """Time the model alone, forwards, and forwards with the gradient at the images."""
    device = device_of(model)
    images = torch.full((batch_size, *shape), 0.5, device=device)

    @torch.no_grad()
    def forward() -> None:
        model(images)

    def both() -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)

    with attack_mode(model), full_precision():
        times = [time_calls(call, device, seconds=_SECONDS, fewest=3) for call in (forward, both)]
    return BareCost(*(mean(each) / batch_size for each in times))


def calls(evaluation: Evaluation) -> tuple[int, int]:
    """Return how many images went forwards and backwards through the model."""
    stages: Sequence[StageResult] = [stage for attack in evaluation.attacks for stage in attack.stages]
    return sum(stage.forwards for stage in stages), sum(stage.backwards for stage in stages)


def _agreement(one: Evaluation, other: Evaluation) -> float:
    return 100 * float(np.mean(one.standing == other.standing))
