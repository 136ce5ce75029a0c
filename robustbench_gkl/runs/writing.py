"""Writing runs: one process at a time, and a run takes its place only once it has begun.

A run is written into ``.NAME.new``. Once it has something to go on from, it becomes ``NAME``; an old folder of the name
becomes ``.NAME.old`` before, and what is left of it goes afterwards. A kill between two of these steps leaves the
old or the new run whole, and the next command that looks for either takes the remaining steps.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import sync_folder, writable_folder
from robustbench_gkl.core.lock import HeldError, locked
from robustbench_gkl.runs.config import RunConfig
from robustbench_gkl.runs.run import Run


@contextmanager
def writing(run: Run) -> Iterator[None]:
    """Keep other processes from writing ``run`` in the block.

    Raises:
        UserError: another process writes it, or the folder that it is in cannot be written to.
    """
    writable_folder(_beside(run, "lock").parent, what="the checkpoints folder")
    with ExitStack() as held:
        try:
            held.enter_context(locked(_beside(run, "lock")))
        except HeldError as error:
            holder = error.holder or "another process"
            raise UserError(f"run {run.name} is being written by {holder}; wait for it or stop it") from None
        _finish(run)
        yield


class Draft:
    """Where a run is written: in its folder, or beside it until it takes its place there.

    Attributes:
        run: the folder to write into now.
    """

    def __init__(self, target: Run, *, beside: bool = False) -> None:
        self._target = Run(target.folder.resolve())
        self.run = Run(_beside(target, "new")) if beside else self._target

    def keep(self) -> None:
        """Let the run take its place, since there is something to go on from now; :attr:`run` is there from then on.

        Files in the old folder that are none of a run's move into the new one.
        """
        if self.run == self._target:
            return
        if self._target.folder.exists():
            self._target.folder.rename(_beside(self._target, "old"))
            _finish(self._target)
        else:
            self.run.folder.rename(self._target.folder)
            sync_folder(self._target.folder.parent)
        self.run = self._target

    def discard(self) -> None:
        """Delete what was not kept."""
        _finish(self._target)  # if it was interrupted in the midst of it
        new = _beside(self._target, "new")
        if new.exists():
            shutil.rmtree(new)


@contextmanager
def begun(run: Run, config: RunConfig, *, overwrite: bool = False) -> Iterator[Draft]:
    """Begin to write a run, inside :func:`writing`; what has not been kept at the end of the block is discarded.

    Args:
        run: where to.
        config: what ``config.json`` is to say.
        overwrite: replace the run that is there, or what is left of one.

    Raises:
        UserError: there is something to be replaced, and it is not to be; the folder cannot be written to.
    """
    there = [path.name for path in run.files() if not path.name.startswith(".")]
    if there and not overwrite:
        raise UserError(f"{run.folder} holds {there[0]} of a run; give --overwrite or another --name")
    draft = Draft(run, beside=True)
    draft.discard()  # what a killed process has left
    draft.run.create(config)
    try:
        yield draft
    finally:
        draft.discard()


def settled(run: Run) -> Run:
    """Return ``run``; if its replacement was killed midway, it is finished before."""
    for _ in range(20):
        if run.exists() or not run.name or not _beside(run, "old").exists():
            break
        try:
            with locked(_beside(run, "lock")):
                _finish(run)
        except HeldError:
            time.sleep(0.05)  # it is being replaced in this moment
        except OSError:
            break  # it may be looked at, and not written
    return run


def _beside(run: Run, ending: str) -> Path:
    folder = run.folder.resolve()
    return folder.with_name(f".{folder.name}.{ending}")


def _finish(run: Run) -> None:
    """Take those steps of a replacement that are left, if any."""
    folder, new, old = run.folder.resolve(), _beside(run, "new"), _beside(run, "old")
    if not old.exists():
        return
    if not folder.exists():
        (new if Run(new).exists() else old).rename(folder)
        sync_folder(folder.parent)
    if old.exists():
        _empty(old, into=folder)
        sync_folder(folder.parent)


def _empty(old: Path, *, into: Path) -> None:
    """Delete a run's folder; files that are none of a run's move ``into`` another one."""
    for path in Run(old).files():
        path.unlink()
    for path in sorted(old.iterdir()):
        if path.name == "tensorboard" and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
            continue
        target = into / path.name
        while target.exists() or target.is_symlink():
            target = target.with_name(f"{target.name}.old")
        path.rename(target)
    old.rmdir()
