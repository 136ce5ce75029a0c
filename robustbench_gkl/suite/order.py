"""Which runs of a suite come before which: a teacher before its students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.models.external import parse_model
from robustbench_gkl.runs import ORIGINS, find_run
from robustbench_gkl.suite.cells import TrainCell


def in_order(cells: Sequence[TrainCell], checkpoints_dir: Path) -> list[TrainCell]:
    """Return the cells, each after those that train its teacher and what it starts from.

    Raises:
        UserError: a model that is not there, and that no cell makes, or cells that need each other.
    """
    by_folder = {(checkpoints_dir / cell.run).resolve(): cell for cell in cells}
    linked: dict[str, TrainCell] = {}

    def link(cell: TrainCell, path: tuple[str, ...]) -> TrainCell:
        if cell.run in path:
            circle = " needs ".join((*path[path.index(cell.run) :], cell.run))
            raise UserError(f"train: {circle}; let one of these runs begin without the next")
        if cell.run not in linked:
            makers = [_maker(getattr(cell.config, role), by_folder, checkpoints_dir) for role in ORIGINS]
            after = {one.run: link(one, (*path, cell.run)) for one in makers if one is not None}
            linked[cell.run] = replace(cell, after=tuple(after.values()))
        return linked[cell.run]

    for cell in cells:
        link(cell, ())
    return list(linked.values())


def _maker(model: str | None, by_folder: Mapping[Path, TrainCell], checkpoints_dir: Path) -> TrainCell | None:
    """Return the cell that makes the run ``model``; None for no model, and for one that is there already."""
    if model is None or parse_model(model) is not None:
        return None
    for folder in (checkpoints_dir / model, Path(model)):
        if folder.resolve() in by_folder:
            return by_folder[folder.resolve()]
    find_run(model, checkpoints_dir=checkpoints_dir)
    return None
