"""Importing a user's code, so that what goes wrong in it becomes one line with its place."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from robustbench_gkl.core.code_files import CodeFile
from robustbench_gkl.core.errors import UserError, one_line

_OURS: set[str] = set()
"""Names in ``sys.modules`` of code that was imported here; the next import starts without them."""


@contextmanager
def on_path(folder: Path, *, first: bool) -> Iterator[None]:
    """Let modules in ``folder`` be imported in the block, before all others or after them."""
    text = str(folder)
    added = first or text not in sys.path
    if added:
        sys.path.insert(0 if first else len(sys.path), text)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            sys.path.remove(text)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make ``folder`` the working directory in the block; only for a process of one thread."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def importing(code: CodeFile) -> Iterator[None]:
    """Let ``code`` and what lies beside it be imported in the block, freshly.

    The modules stay importable by what the block made, until the next one: so a file can be loaded twice, after a
    change or from two folders with modules of the same name.
    """
    for name in _OURS:
        sys.modules.pop(name, None)
    _OURS.clear()
    before = set(sys.modules)
    try:
        with on_path(code.root, first=True):
            yield
    finally:
        if not code.installed:  # what is installed is imported once, as everywhere
            tops = code.tops()
            _OURS.update(name for name in set(sys.modules) - before if name.partition(".")[0] in tops)


def import_file(code: CodeFile, *, name: str | None = None) -> ModuleType:
    """Import a file of code: as a part of its package, or under a name of its own.

    Args:
        code: the file.
        name: under which a file in no package stays in ``sys.modules``; None for one that the next import drops.

    Raises:
        UserError: anything that goes wrong in it.
    """
    if code.path.parent != code.root:
        return import_named(code.dotted, code)
    with explained(code):
        kept = name is not None
        name = name or f"gklbench_file_{code.path.stem}"
        spec = importlib.util.spec_from_file_location(name, code.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        if not kept:
            _OURS.add(name)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module


def import_named(dotted: str, code: CodeFile) -> ModuleType:
    """Import the module called ``dotted``, whose file is ``code``.

    Raises:
        UserError: anything that goes wrong in it.
    """
    with explained(code):
        return importlib.import_module(dotted)


@contextmanager
def explained(code: CodeFile) -> Iterator[None]:
    """Turn what is raised in the block into one line with file and line number.

    Raises:
        UserError: in place of anything else but an interruption; one that is raised inside stays as it is.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except SystemExit:
        raise UserError(
            f"{code.path.name} ends the program when it is imported; put what runs under if __name__ == '__main__'"
        ) from None
    except BaseException as error:
        raise UserError(f"{place(error, code)}: {reason(error)}{_remedy(error)}") from error


def place(error: BaseException, code: CodeFile) -> str:
    """Return the file and line of the user's code that ``error`` came from, as ``net.py, line 3``."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    files = {str(path) for path in code.family()}
    own = [frame for frame in frames if frame.filename in files]
    if not own:
        return code.path.name
    return f"{Path(own[-1].filename).relative_to(code.root)}, line {own[-1].lineno}"


def reason(error: BaseException) -> str:
    """Return what ``error`` says, in one line, with its type."""
    return f"SyntaxError: {error.msg}" if isinstance(error, SyntaxError) else one_line(error)


def _remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        return f"; install it (pip install {top}) or put it beside the file"
    return ""
