"""The time that cells take, from earlier measurements: the runs' ``metrics.csv`` and the records' times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from statistics import median

from robustbench_gkl.attacks import canonical_specs
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data.sizes import dataset_size
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.runs import Run, look_for, runs_in
from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell
from robustbench_gkl.suite.cost import LossPasses, images_per_epoch, training_calls
from robustbench_gkl.suite.ledger import Folders


class Rates:
    """Measured times of runs and evaluations in some folders."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    @cached_property
    def _trainings(self) -> dict[tuple[str | None, ...], list[float]]:
        """Seconds per pass by model, data set, loss and teacher."""
        found: dict[tuple[str | None, ...], list[float]] = defaultdict(list)
        for run in runs_in(self._folders.checkpoints):
            try:
                config, row = run.trained_with(), run.last_row()
            except UserError:
                continue  # the error is raised where the run itself is read
            if config is None or not row.get("seconds"):
                continue
            calls = _calls(config, with_validation=False)  # its time is not in the seconds of metrics.csv
            if calls:
                done = calls * row["epoch"] / config.epochs
                found[_kind(config)].append(row["seconds"] / done)
        return found

    @cached_property
    def records(self) -> list[Record]:
        """All complete records."""
        return [record for record in ResultStore(self._folders.results).evaluations.all() if not record.partial]

    def seconds(self, cell: Cell) -> float | None:
        """Return the seconds that the rest of a cell will take; None if nothing like it was measured."""
        return self._training(cell) if isinstance(cell, TrainCell) else self._evaluation(cell)

    def _training(self, cell: TrainCell) -> float | None:
        config = cell.config
        rates, calls = self._trainings.get(_kind(config)), _calls(config)
        if not rates or not calls:
            return None
        run = Run(self._folders.checkpoints / cell.run)
        done = run.epochs_done() / config.epochs if run.trained_with() == config else 0.0
        return median(rates) * calls * max(0.0, 1 - done)

    def _evaluation(self, cell: EvalCell) -> float | None:
        n = cell.config.n or dataset_size(cell.config.dataset, cell.config.split)
        arch = self.arch(cell)
        alike = [record for record in self.records if record.model.arch == arch]
        same = [record.seconds / record.data.n for record in alike if same_attacks(record, cell)]
        if n is None or not alike:
            return None
        if same:
            return float(median(same) * n)
        # The same attacks on another model give the calls, and other attacks on the same model the cost of a call.
        calls = [sum(_passes(record)) / record.data.n for record in self.records if same_attacks(record, cell)]
        if not calls:
            return None
        per_call = [record.seconds / max(1, sum(_passes(record))) for record in alike]
        return float(median(calls) * median(per_call) * n)

    def arch(self, cell: EvalCell) -> str | None:
        """Return the architecture that a cell evaluates; None if there is no such run, or it does not say."""
        if cell.train is not None:
            return cell.train.config.model
        return self._arch_of(cell.run)

    def teacher_arch(self, cell: TrainCell) -> str | None:
        """Return the architecture of a training's teacher; None if it has none or it is not known."""
        if cell.config.teacher is None:
            return None
        trained = [other.config.model for other in cell.after if other.run == Path(cell.config.teacher).name]
        return trained[0] if trained else self._arch_of(cell.config.teacher)

    def _arch_of(self, model: str) -> str | None:
        if (outside := parse_model(model)) is not None:
            return outside.arch
        try:
            return look_for(model, checkpoints_dir=self._folders.checkpoints).config().arch
        except UserError:
            return None


def _kind(config: TrainConfig) -> tuple[str | None, ...]:
    """Return what trainings that take the same time for a pass share."""
    return (config.model, config.dataset, config.loss, config.teacher)


def same_attacks(record: Record, cell: EvalCell) -> bool:
    """Return whether a record's attacks are the cell's, on the same data set and in the same norm."""
    return (
        record.config is not None
        and record.data.dataset == cell.config.dataset
        and record.threat.norm == cell.config.threat.norm
        and record.config.attacks == canonical_specs(cell.config.attacks)
    )


def _passes(record: Record) -> Iterable[int]:
    """Yield the model calls of a record's stages."""
    for attack in record.attacks:
        for stage in attack.stages:
            yield stage.forwards + stage.backwards


def _calls(config: TrainConfig, *, with_validation: bool = True) -> float | None:
    """Return the cost of a training in forward passes, to be compared with that of another with the same loss."""
    images = images_per_epoch(config)
    if images is None:
        return None
    return training_calls(config, loss=LossPasses(), images=images[0], held_out=images[1] * with_validation).total
