"""A cell's command and the process that runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustbench_gkl.config.options import eval_options
from robustbench_gkl.core.files import write_atomically
from robustbench_gkl.suite.cells import Cell, EvalCell, TrainCell
from robustbench_gkl.suite.ledger import Ledger, Outcome

_TAIL = 4096
"""Bytes at the end of a log that are looked at."""
_INTERRUPTED = (130, -signal.SIGTERM)
"""The commands' exit codes after a signal to stop: with their state saved, and before they had begun."""


def command_of(cell: Cell, ledger: Ledger) -> list[str]:
    """Return the command that a cell needs now: training begins, goes on, or begins anew with other settings.

    The recipe of a training cell is written beside the suite's other files.
    """
    folders = ledger.folders
    shared = ["--device", folders.device, "--data-dir", str(folders.data)]
    shared += ["--checkpoints-dir", str(folders.checkpoints)]
    if isinstance(cell, EvalCell):
        options = [word for group in eval_options(cell.config, weights=cell.weights) for word in group]
        return _command("eval", cell.run, *options, *shared, "--results-dir", str(folders.results))
    write_atomically(ledger.config_path(cell), cell.config.model_dump_json(indent=1) + "\n")
    if ledger.started(cell):
        return _command("train", "--name", cell.run, "--resume", *shared)
    return _command("train", str(ledger.config_path(cell)), "--name", cell.run, "--overwrite", *shared)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "robustbench_gkl", *words]


class CellProcess:
    """The running command of a cell; its output goes to the cell's log.

    Args:
        cell: what to run.
        ledger: of its suite; how the cell ends is written down there.
        environment: variables that the command gets beside our own.
        keep_open: file descriptors that the command inherits.
        new_session: whether signals to our process group are to pass the command by: Ctrl-C is passed on once, by us.
        ignoring: signals that the command ignores.
    """

    def __init__(
        self,
        cell: Cell,
        ledger: Ledger,
        *,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
        new_session: bool = True,
        ignoring: Sequence[signal.Signals] = (),
    ) -> None:
        self.cell, self._ledger = cell, ledger
        self._log = ledger.log_path(cell)
        ledger.forget(cell)
        command = command_of(cell, ledger)
        self._started = time.monotonic()
        self._stopping = False

        def prepare() -> None:
            for number in ignoring:
                signal.signal(number, signal.SIG_IGN)

        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(environment or {}) | {"PYTHONUNBUFFERED": "1"},
                start_new_session=new_session,
                pass_fds=tuple(keep_open),
                preexec_fn=prepare if ignoring else None,
            )

    @property
    def seconds(self) -> float:
        """For how long it has been running."""
        return time.monotonic() - self._started

    def last_line(self) -> str:
        """Return the newest line of the log."""
        return (_last_lines(self._log, 1) or [""])[-1]

    def poll(self) -> Outcome | None:
        """Return how the command ended, once it did."""
        code = self._process.poll()
        return None if code is None else self._ended(code)

    def wait(self) -> Outcome:
        """Wait for the end and return how it was."""
        return self._ended(self._process.wait())

    def stop(self) -> None:
        """Signal the command to save its state and end."""
        self._stopping = True
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the command at once."""
        self._stopping = True
        self._process.kill()

    def _ended(self, code: int) -> Outcome:
        lines = tuple(_last_lines(self._log, 5))
        outcome = Outcome("failed", code, round(self.seconds, 2), lines=lines)
        if code in _INTERRUPTED or (self._stopping and code != 0):
            outcome = Outcome("interrupted", code, outcome.seconds, lines=lines)
        elif code == 0 and isinstance(self.cell, TrainCell):
            if self._ledger.trained(self.cell):
                outcome = Outcome("done", code, outcome.seconds)
        elif code == 0 and isinstance(self.cell, EvalCell):
            record = re.search(r"^record (\S+),", "\n".join(lines), flags=re.MULTILINE)
            if record is not None:
                self._ledger.note_record(record[1])
                weights = self._ledger.weights_hash(self.cell)
                outcome = Outcome("done", code, outcome.seconds, record=record[1], weights=weights)
        self._ledger.keep(self.cell, outcome)
        return outcome


def _last_lines(path: Path, count: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()][-count:]
