"""The state of a suite's cells while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from robustbench_gkl.suite.cells import Cell, TrainCell
from robustbench_gkl.suite.cost import Work, makespan
from robustbench_gkl.suite.ledger import Ledger, Outcome, Status
from robustbench_gkl.suite.rates import Rates


class SuiteState:
    """The status of each cell: done, running, failed or waiting.

    Args:
        cells: all of the suite, each after those that it needs.
        ledger: what is on disk.
        retry: run failed cells again.
    """

    def __init__(self, cells: Sequence[Cell], ledger: Ledger, *, retry: bool = False) -> None:
        self.cells, self.ledger = tuple(cells), ledger
        self.by_key = {cell.key: cell for cell in cells}
        self.statuses: dict[str, Status] = ledger.survey(cells, retry=retry)
        self.busy: dict[str, Literal["queued", "running"]] = {}
        self.interrupted: set[str] = set()
        self.rates = Rates(ledger.folders)
        self._estimates: dict[str, float | None] = {}
        self._taken: dict[str, list[float]] = {"train": [], "eval": []}

    def ready(self) -> list[Cell]:
        """Return the cells that can begin now, in the suite's order."""
        taken = self.busy.keys() | self.interrupted
        return [cell for cell in self.cells if self.statuses[cell.key] == "ready" and cell.key not in taken]

    def left(self) -> list[Cell]:
        """Return the cells that are neither done nor failed nor blocked nor interrupted, running ones included."""
        cut_off = set(self.interrupted)
        for cell in self.cells:
            if not cut_off.isdisjoint(cell.needs):
                cut_off.add(cell.key)
        return [
            cell for cell in self.cells if self.statuses[cell.key] in ("ready", "waiting") and cell.key not in cut_off
        ]

    def begin(self, cell: Cell, state: Literal["queued", "running"] = "running") -> None:
        """Mark a cell as running, or as is in a queue to be run."""
        self.busy[cell.key] = state

    def end(self, cell: Cell, outcome: Outcome) -> None:
        """Mark a cell as ended, and update those that need it."""
        self.busy.pop(cell.key, None)
        if outcome.status == "interrupted":
            self.interrupted.add(cell.key)
            return
        self.statuses[cell.key] = outcome.status
        self._taken[cell.kind].append(outcome.seconds)
        for other in self.cells:  # training that gave the same weights as before leaves nothing to do for the others
            if self.statuses[other.key] == "waiting":
                self.statuses[other.key] = self.ledger.status(other, self.statuses, retry=True)

    def reason(self, cell: Cell) -> str:
        """Return why a cell that is left is to be run, in a few words."""
        outcome = self.ledger.outcome(cell)
        if outcome is not None and outcome.status == "failed":
            return "failed before"
        if self.statuses[cell.key] == "waiting":
            first = [other.run for other in cell.after] if isinstance(cell, TrainCell) else ["its training"]
            return f"after {' and '.join(first)}"
        if not isinstance(cell, TrainCell):
            return "no record"
        run = self.ledger.run_of(cell)
        if not run.exists():
            return "no run"
        if self.ledger.started(cell):
            return f"goes on after epoch {run.epochs_done()} of {cell.config.epochs}"
        return f"settings changed: {self.ledger.difference(cell, run)}"

    def counts(self) -> Counter[str]:
        """Return how many cells are in each state."""
        return Counter(
            "interrupted" if cell.key in self.interrupted else self.busy.get(cell.key, self.statuses[cell.key])
            for cell in self.cells
        )

    def estimate(self, cell: Cell) -> float | None:
        """Return the seconds that a cell takes: as measured before, else like those of its kind that ended just now."""
        if cell.key not in self._estimates:
            self._estimates[cell.key] = self.rates.seconds(cell)
        taken = self._taken[cell.kind]
        known = self._estimates[cell.key]
        return sum(taken) / len(taken) if known is None and taken else known

    def seconds_left(self, workers: int, elapsed: dict[str, float] | None = None) -> float | None:
        """Return the seconds until the last cell is done; None while that cannot be known."""
        works = []
        for cell in self.left():
            seconds = self.estimate(cell)
            if seconds is None:
                return None
            works.append(Work(cell.key, max(0.0, seconds - (elapsed or {}).get(cell.key, 0.0)), cell.needs))
        return makespan(works, max(1, workers))
