"""Losses, attacks, models, data sets and recipes from outside the package: installed ones, and those of ``--plugin``.

A plugin is a Python module whose import registers what it has, with the decorators that our own modules use.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from robustbench_gkl.core.code_files import CodeFile
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.importing import explained, import_file, import_named, on_path, reason

GROUP = "gklbench.plugins"
"""The entry points of installed plugins; each names a module."""
_LOGGER = logging.getLogger("robustbench_gkl")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_loaded: dict[str, str] = {}
"""Argument and hash of each plugin of ``--plugin`` in this process, in the order in which they were loaded."""


_undo: list[Callable[[], object]] = []
"""What takes back each registration of the plugins that are being loaded."""


def on_failure(undo: Callable[[], object]) -> None:
    """Call ``undo`` if the plugin that is being loaded fails."""
    _undo.append(undo)


@contextmanager
def _all_or_nothing() -> Iterator[None]:
    """Take back what is registered in the block if it fails."""
    start = len(_undo)
    try:
        yield
    except BaseException:
        for undo in reversed(_undo[start:]):
            undo()
        raise
    finally:
        del _undo[start:]


def load_plugins(arguments: Iterable[str]) -> dict[str, str]:
    """Import plugins and return the hash of each, by its argument: the absolute path of a file, or a module's name.

    One that is loaded already is not imported again.

    Args:
        arguments: ``FILE.py`` or the dotted name of a module.

    Raises:
        UserError: no such file or module, or an error in it, with its place.
    """
    return {argument: _load(argument, code) for argument, code in map(_located, arguments)}


def load_again(plugins: Mapping[str, str], *, what: str, exact: bool = False) -> None:
    """Import the plugins that something was made with, unless the same code is loaded already.

    Another version of one that the user gave in its place is used, with a warning.

    Args:
        plugins: argument and hash, as :func:`loaded_plugins` returned them.
        what: that was made, for messages.
        exact: refuse another version even where the user gave it.

    Raises:
        UserError: a plugin is not there any more, or is another one now.
    """
    for argument, digest in plugins.items():
        if digest in _loaded.values():
            continue
        try:
            named, code = _located(argument)
        except UserError:
            raise UserError(
                f"{what} was made with the plugin {argument}, which is not there any more; give it with --plugin"
            ) from None
        found = _loaded.get(named) or code.identity()["code_sha256"]
        if found == digest:
            _load(named, code)
            continue
        changed = f"{what} was made with another version of the plugin {argument} (hash {digest[:8]}, now {found[:8]})"
        if exact or named not in _loaded:
            raise UserError(f"{changed}; put that version back, or give it with --plugin")
        _LOGGER.warning("%s", changed)


def loaded_plugins() -> dict[str, str]:
    """Return argument and hash of the plugins that were loaded by argument in this process."""
    return dict(_loaded)


def _located(argument: str) -> tuple[str, CodeFile]:
    """Return the argument that is kept, and the file of code."""
    if argument.endswith(".py"):
        path = Path(argument).expanduser().absolute()
        if not path.is_file():
            raise UserError(f"--plugin {argument}: no file {path}; give FILE.py or the name of a module")
        return str(path), CodeFile.at(path)
    if not _MODULE.fullmatch(argument):
        raise UserError(f"--plugin must be FILE.py or the name of a module, got {argument!r}")
    with on_path(Path.cwd(), first=False):
        try:
            spec = importlib.util.find_spec(argument)
        except (ImportError, ValueError):
            spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"--plugin {argument}: no module of that name; install it, or give FILE.py")
    return argument, CodeFile.at(Path(spec.origin))


def _load(argument: str, code: CodeFile) -> str:
    if argument in _loaded:
        return _loaded[argument]
    digest = code.identity()["code_sha256"]
    with _all_or_nothing(), explained(code), on_path(code.root, first=False):
        if argument.endswith(".py"):
            import_file(code, name=f"gklbench_plugin_{code.path.stem}_{digest[:8]}")
        else:
            import_named(argument, code)
    _loaded[argument] = digest
    return digest


@cache
def load_installed() -> None:
    """Import the plugins that installed packages announce; one that fails is a warning."""
    for point in entry_points(group=GROUP):
        if point.module in sys.modules:
            continue
        try:
            with _all_or_nothing():
                point.load()
        except Exception as error:
            package = point.dist.name if point.dist is not None else point.module
            _LOGGER.warning("the plugin %s of %s is left out: %s", point.name, package, reason(error))
