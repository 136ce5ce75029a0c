"""Names for losses, attacks, models and data sets."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from robustbench_gkl.core.errors import unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Registered(Generic[T]):
    """One registered thing: its ``name``, the ``pattern`` of names it serves (or None) and the ``value``."""

    name: str
    value: T
    pattern: re.Pattern[str] | None
    summary: str


class Registry(Generic[T]):
    """A table from names to factories, filled by decorators in the modules of one package.

    The modules are imported at the first look-up, so a new file is found without editing any list.

    Args:
        kind: what is registered, for error messages ("loss", "attack").
        package: dotted name of the package whose modules register here.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, Registered[T]] = {}
        self._loaded = False

    def register(self, name: str, *, pattern: str | None = None) -> Callable[[T], T]:
        """Return a decorator that registers its argument as ``name``.

        With ``pattern`` (a regular expression matched against the whole name) one entry serves a family of
        names, such as ``wrn-D-W``; its named groups are handed to the caller of :meth:`resolve`.

        Raises:
            ValueError: the name is taken.
        """

        def add(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            summary = (value.__doc__ or "").strip().partition("\n")[0]
            compiled = re.compile(pattern) if pattern is not None else None
            self._entries[name] = Registered(name, value, compiled, summary)
            return value

        return add

    def entries(self) -> list[Registered[T]]:
        """Return all entries, sorted by name."""
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._loaded = True
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return [entry.name for entry in self.entries()]

    def resolve(self, name: str) -> tuple[T, dict[str, str]]:
        """Return what ``name`` stands for, and the named groups of the pattern that matched it (or {}).

        Raises:
            UserError: nothing of that name; the message lists the choices and the closest one.
        """
        for entry in self.entries():
            if entry.pattern is None and entry.name == name:
                return entry.value, {}
        for entry in self.entries():
            if entry.pattern is not None and (match := entry.pattern.fullmatch(name)):
                return entry.value, match.groupdict()
        raise unknown(self.kind, name, self.names())


def load_object(path: str) -> Any:
    """Return the object that ``module:name`` names, importing its module."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
