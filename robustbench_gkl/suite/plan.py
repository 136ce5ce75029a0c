"""The cost of a suite, counted from its settings, and its spread over devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.config.recipes import published_figures, recipe_names
from robustbench_gkl.core.calls import Calls
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data.sizes import dataset_classes, dataset_size
from robustbench_gkl.results import Record
from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell
from robustbench_gkl.suite.cost import (
    LossPasses,
    PassTimes,
    Work,
    images_per_epoch,
    makespan,
    teacher_calls,
    training_calls,
)
from robustbench_gkl.suite.matrix import Suite
from robustbench_gkl.suite.rates import Rates, same_attacks

_USUAL_CLASSES = 10
"""Assumed of data sets whose classes are counted only when they are loaded."""


@dataclass(frozen=True)
class Planned:
    """The cost of one cell.

    Attributes:
        cell: its description, and ``key`` and ``needs`` as the cell has them.
        kind: ``train`` or ``eval``.
        images: that it works on, training images times epochs.
        calls: passes through the model.
        seconds: on one device.
        basis: where the number of calls comes from.
        teacher: passes through the teacher of a training.
    """

    cell: str
    key: str
    needs: tuple[str, ...]
    kind: str
    images: float
    calls: Calls
    seconds: float
    basis: str
    teacher: Calls = field(default_factory=Calls)

    def row(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "cell": self.cell,
            "kind": self.kind,
            "images": round(self.images),
            **{key: round(value) for key, value in asdict(self.calls).items()},
            "model_calls": round(self.calls.total),
            "teacher_calls": round(self.teacher.total),
            "hours": round(self.seconds / 3600, 4),
            "basis": self.basis,
        }


@dataclass(frozen=True)
class Assumptions:
    """What the counting needs beside the suite.

    Attributes:
        loss: the passes of a loss by name.
        times: what passes of a cell's model take.
        teacher_times: what passes of a training's teacher take.
        rates: earlier measurements.
        robust_acc: share of the samples, in percent, that evaluations leave standing; None to look for it.
    """

    loss: Callable[[str], LossPasses]
    times: Callable[[Cell], PassTimes]
    teacher_times: Callable[[TrainCell], PassTimes]
    rates: Rates
    robust_acc: float | None = None


def plan_suite(suite: Suite, assumed: Assumptions) -> list[Planned]:
    """Return what each cell costs, whether it is done already or not.

    Raises:
        UserError: a data set whose size is not known, or an attack whose calls are not.
    """
    return [
        _training(cell, assumed) if isinstance(cell, TrainCell) else _evaluation(cell, assumed) for cell in suite.cells
    ]


def spread(planned: Sequence[Planned], devices: int) -> float:
    """Return the seconds until all cells are done on so many devices."""
    return makespan([Work(one.key, one.seconds, one.needs) for one in planned], devices)


def _training(cell: TrainCell, assumed: Assumptions) -> Planned:
    config = cell.config
    images = images_per_epoch(config)
    if images is None:
        raise UserError(f"the size of {config.dataset} is not known before it is loaded; give train_size")
    loss, (shown, held_out) = assumed.loss(config.loss), images
    calls = training_calls(config, loss=loss, images=shown, held_out=held_out)
    taught = teacher_calls(config, loss=loss, images=shown, held_out=held_out)
    seconds, basis = assumed.times(cell).seconds(calls), "counted"
    if config.teacher is not None:
        seconds += assumed.teacher_times(cell).seconds(taught)
        basis += f", and {taught.total:.3g} of the teacher"
    return Planned(
        str(cell), cell.key, cell.needs, cell.kind, shown * config.epochs, calls, seconds, basis, teacher=taught
    )


def _evaluation(cell: EvalCell, assumed: Assumptions) -> Planned:
    n = cell.config.n or dataset_size(cell.config.dataset, cell.config.split)
    if n is None:
        raise UserError(f"the size of {cell.config.dataset} is not known before it is loaded; give n")
    per_image, basis = _per_image(cell, assumed)
    calls = per_image * n
    return Planned(str(cell), cell.key, cell.needs, cell.kind, n, calls, assumed.times(cell).seconds(calls), basis)


def _per_image(cell: EvalCell, assumed: Assumptions) -> tuple[Calls, str]:
    """Return the calls of an evaluation for each image, and where they come from.

    Nearly all are spent on the samples that stand to the end. Those that fall are counted with the whole of the
    first attack.
    """
    standing, clean, basis = _standing(cell, assumed)
    measured = [record for record in assumed.rates.records if same_attacks(record, cell)]
    stages = _stage_calls(cell)
    known = [calls for calls in stages if calls is not None]
    if measured and (standing is None or len(known) < len(stages)):
        per_image = [_measured(record) for record in measured]
        return sum(per_image, Calls()) * (1 / len(per_image)), f"measured in {len(measured)} records"
    if len(known) < len(stages):
        raise UserError(f"nothing is known of what {' '.join(cell.config.attacks)} cost; evaluate a few images first")
    stays = 1.0 if standing is None else standing / 100
    falls = max(0.0, clean / 100 - stays)
    return sum(known, Calls()) * stays + (known[0] * falls if known else Calls()), basis


def _stage_calls(cell: EvalCell) -> list[Calls | None]:
    """Return the calls of each stage of a cell's attacks for a sample that stands; None where they are not known."""
    config, classes = cell.config, dataset_classes(cell.config.dataset) or _USUAL_CLASSES
    return [
        stage.calls(config.threat, num_classes=classes)
        for spec in config.attacks
        for stage in parse_attack(spec).stages(config.threat, num_classes=classes)
    ]


def _standing(cell: EvalCell, assumed: Assumptions) -> tuple[float | None, float, str]:
    """Return the robust and clean accuracy that the plan assumes, in percent, and where they come from."""
    config = None if cell.train is None else cell.train.config
    published = published_figures(config.recipe) if config is not None and config.recipe in recipe_names() else None
    if assumed.robust_acc is not None:
        return assumed.robust_acc, 100.0, f"{assumed.robust_acc:g} % standing, given"
    alike = config is not None and (config.dataset, config.threat) == (cell.config.dataset, cell.config.threat)
    if published is not None and published.autoattack is not None and alike:
        return published.autoattack, published.clean or 100.0, f"{published.autoattack:g} % standing, published"
    return None, 100.0, "worst case: all stand"


def _measured(record: Record) -> Calls:
    stages = [stage for attack in record.attacks for stage in attack.stages]
    total = Calls(sum(stage.forwards for stage in stages), sum(stage.backwards for stage in stages))
    return total * (1 / record.data.n)
