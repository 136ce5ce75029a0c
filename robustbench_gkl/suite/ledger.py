"""The state of cells on disk, judged by the content of runs and records, whoever made them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.config.changes import difference
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import writable_folder, write_atomically
from robustbench_gkl.data.sizes import dataset_size
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.results.record import canonical_hash
from robustbench_gkl.runs import ORIGINS, Origin, Run, look_for, settled
from robustbench_gkl.sources.source import has_changed
from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell, training_content

Status = Literal["done", "failed", "ready", "waiting", "blocked"]
"""``waiting``: for a cell before it; ``blocked``: that one failed."""


@dataclass(frozen=True)
class Folders:
    """Where a suite's files are, the device it runs on, and the plugins that its commands load."""

    checkpoints: Path = Path("checkpoints")
    results: Path = Path("results")
    data: Path = Path("data")
    device: str = "auto"
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a cell ended, kept in ``cells/KEY.json``.

    Attributes:
        status: ``interrupted`` is neither done nor failed: the cell goes on when it is started again.
        exit_code: of the command; negative for a signal.
        seconds: that it took.
        record: the id of the record that an evaluation made or found.
        weights: the hash of the model that was evaluated.
        lines: the last of its log.
    """

    status: Literal["done", "failed", "interrupted"]
    exit_code: int
    seconds: float
    record: str | None = None
    weights: str | None = None
    lines: tuple[str, ...] = field(default=())


class Ledger:
    """The files of one suite in ``results/suites/NAME``, and the state of its cells by these, the runs and the records.

    Args:
        name: the suite's.
        folders: where runs and records are.
    """

    def __init__(self, name: str, folders: Folders) -> None:
        self.folders = folders
        self.folder = folders.results / "suites" / name
        self._records: dict[str, list[Record]] = {}

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            UserError: they cannot be written to.
        """
        for name in ("cells", "configs", "logs"):
            writable_folder(self.folder / name, what="the suite's folder")

    def run_of(self, cell: Cell) -> Run:
        """Return the run that a cell trains or evaluates; one that no cell trains may be given by its folder."""
        if isinstance(cell, EvalCell) and cell.train is None:
            return look_for(cell.run, checkpoints_dir=self.folders.checkpoints)
        return settled(Run(self.folders.checkpoints / cell.run))

    def name_of(self, cell: Cell) -> str:
        """Return the name of the model that a cell trains or evaluates, as its records have it."""
        if isinstance(cell, EvalCell) and cell.name is not None:
            return cell.name
        outside = cell.outside if isinstance(cell, EvalCell) else None
        return self.run_of(cell).name if outside is None else outside.name

    def log_path(self, cell: Cell) -> Path:
        """Return where the output of a cell's command goes."""
        return self.folder / "logs" / f"{cell.kind}-{self.name_of(cell)}-{cell.key[:8]}.log"

    def config_path(self, cell: TrainCell) -> Path:
        """Return where the recipe of a training cell is written; its name holds the hash of its content."""
        return self._config_path(cell.run, training_content(cell.config))

    def _config_path(self, run: str, content: Mapping[str, Any]) -> Path:
        return self.folder / "configs" / f"{run}-{canonical_hash(content)[:12]}.json"

    def outcome(self, cell: Cell) -> Outcome | None:
        """Return how the cell ended when this suite started it last; None if it never did."""
        try:
            values = json.loads((self.folder / "cells" / f"{cell.key}.json").read_bytes())
            return Outcome(**values | {"lines": tuple(values["lines"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep(self, cell: Cell, outcome: Outcome) -> None:
        """Write down how a cell ended."""
        write_atomically(self.folder / "cells" / f"{cell.key}.json", json.dumps(asdict(outcome)) + "\n")

    def forget(self, cell: Cell) -> None:
        """Remove what is kept of a cell's end, since it is started again."""
        (self.folder / "cells" / f"{cell.key}.json").unlink(missing_ok=True)

    def survey(self, cells: Sequence[Cell], *, retry: bool = False) -> dict[str, Status]:
        """Return the status of each cell by key, from the files as they are now.

        Args:
            cells: all of the suite, each after those that it needs.
            retry: take failed cells as not run.
        """
        self._read_records(cells)
        statuses: dict[str, Status] = {}
        for cell in cells:
            statuses[cell.key] = self.status(cell, statuses, retry=retry)
        return statuses

    def status(self, cell: Cell, statuses: Mapping[str, Status], *, retry: bool = False) -> Status:
        """Return the status of a cell from the files as they are, and from the ``statuses`` of those that it needs."""
        before = {statuses[key] for key in cell.needs}
        if not before.isdisjoint({"failed", "blocked"}):
            return "blocked"
        if before - {"done"}:
            return "waiting"
        if self.is_done(cell):
            return "done"
        outcome = self.outcome(cell)
        return "failed" if outcome is not None and outcome.status == "failed" and not retry else "ready"

    def is_done(self, cell: Cell) -> bool:
        """Return whether the run is trained, or the record there."""
        return self.trained(cell) if isinstance(cell, TrainCell) else self.record(cell) is not None

    def trained(self, cell: TrainCell) -> bool:
        """Return whether the run was trained with the cell's settings to its end."""
        run = self.run_of(cell)
        return run.epochs_done() >= cell.config.epochs and self.started(cell) and "last" in run.available()

    def started(self, cell: TrainCell) -> bool:
        """Return whether a run of this name was begun with the cell's settings, teacher and initial weights."""
        config = self.run_of(cell).trained_with()
        same = config is not None and training_content(config) == training_content(cell.config)
        return same and self.changed_origin(cell) is None

    def changed_origin(self, cell: TrainCell) -> str | None:
        """Return which model a run of the cell's settings was made with that has changed since; None if none has."""
        started = self.run_of(cell).config()
        for role in ORIGINS:
            origin: Origin | None = getattr(started, role)
            named: str | None = getattr(cell.config, role)
            if origin and named and has_changed(origin, named, checkpoints_dir=self.folders.checkpoints):
                return f"{role} {named}"
        return None

    def refuse_to_overwrite(self, cells: Sequence[Cell]) -> None:
        """Refuse to replace runs of the cells' names that this suite did not make.

        Raises:
            UserError: there is one.
        """
        for cell in cells:
            run = self.run_of(cell)
            if not isinstance(cell, TrainCell) or not run.exists() or self.started(cell):
                continue
            config = run.trained_with()
            if config is not None and self._config_path(cell.run, training_content(config)).exists():
                continue
            raise UserError(
                f"run {cell.run} exists in {run.folder} with other settings ({self.difference(cell, run)}) and was not "
                f"made by this suite; give the suite's runs another name, or --overwrite"
            )

    def difference(self, cell: TrainCell, run: Run) -> str:
        """Return the first setting in which a run differs from a cell."""
        config = run.trained_with()
        if config is None:
            return "it was imported"
        found = difference(training_content(config), training_content(cell.config))
        return f"another {self.changed_origin(cell)}" if found is None else f"{found[0]} = {found[1]}, here {found[2]}"

    def record(self, cell: EvalCell) -> Record | None:
        """Return the complete record that answers the cell; None if there is none."""
        records = self._records.get(self.name_of(cell), ())
        made_of = _made_of(cell) if records else None
        model = self.model_hash(cell) if made_of is None else canonical_hash(made_of)
        if model is None:
            return None
        outcome = self.outcome(cell)
        for record in records:
            known = outcome is not None and outcome.weights == model and outcome.record == record.id
            known = known and _same_images(record, cell)
            if not record.partial and _is_about(record, made_of, model) and (known or _answers(record, cell)):
                return record
        return None

    def model_hash(self, cell: EvalCell) -> str | None:
        """Return the hash of the weights that a cell evaluates, or of what a model from outside is made of.

        None if there are no such weights.
        """
        if (made_of := _made_of(cell)) is not None:
            return canonical_hash(made_of)
        run = self.run_of(cell)
        there = cell.weights in run.available() if cell.weights else run.available()
        return run.weights_sha256(cell.weights) if there else None

    def _read_records(self, cells: Sequence[Cell]) -> None:
        self._records = {}
        for record in ResultStore(self.folders.results).evaluations.all(of={self.name_of(cell) for cell in cells}):
            self._note(record)

    def _note(self, record: Record) -> None:
        self._records.setdefault(record.model.name, []).append(record)

    def note_record(self, record_id: str) -> None:
        """Add a record that was written since the survey."""
        record = ResultStore(self.folders.results).load(record_id)
        if record is not None:
            self._note(record)


def _made_of(cell: EvalCell) -> dict[str, Any] | None:
    """Return what a cell's model from outside is made of, as its record has it; None for a run. Hashes its files."""
    return None if cell.outside is None else {**cell.outside.identity(), **cell.options.given()}


def _is_about(record: Record, made_of: Mapping[str, Any] | None, weights: str) -> bool:
    """Return whether a record is about the model that is ``made_of`` this, or the run's model of these ``weights``."""
    if made_of is None:
        return record.model.weights_sha256 == weights
    source = record.model.source or {}
    return all(source.get(key) == value for key, value in made_of.items())


def question(config: EvalConfig) -> EvalConfig:
    """Return ``config`` in a form that is the same for the same question.

    Attacks are in their canonical form, the number of samples is resolved where it is known without loading them, and
    a batch size that decides nothing, as our own engine's, is left out.
    """
    return config.model_copy(
        update={
            "attacks": tuple(_measured(spec, config) for spec in config.attacks),
            "n": config.n or dataset_size(config.dataset, config.split),
            "batch_size": config.batch_size if config.engine == "reference" else "auto",
        }
    )


def _measured(spec: str, config: EvalConfig) -> str:
    """Return the canonical spec of what runs: with the engine ``reference``, the published implementation.

    An attack that is not known, or not installed here, is its own.
    """
    try:
        attack = parse_attack(spec)
        return (attack.reference(config.threat) if config.engine == "reference" else attack).canonical
    except UserError:
        return spec


def _same_images(record: Record, cell: EvalCell) -> bool:
    """Return whether the files of submitted images are those that a record was made with."""
    submitted = {spec for spec in question(cell.config).attacks if spec.startswith("images:")}
    return record.config is None or submitted <= set(record.config.attacks)


def _answers(record: Record, cell: EvalCell) -> bool:
    """Return whether a record of the cell's model answers the cell's question."""
    if record.config is None or record.config.engine != cell.config.engine:
        return False
    asked = question(cell.config)
    if record.config.engine == "native" and record.config.attacks != asked.attacks:
        return False  # both in canonical form: nothing has to be imported to compare them
    return question(record.config) == asked
