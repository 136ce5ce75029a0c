"""Names for losses, attacks, models and data sets."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.plugins import load_installed, on_failure

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

    The modules are imported at the first look-up, so a new file is found without editing any list; plugins come after
    them.

    Args:
        kind: what is registered, for error messages ("loss", "attack").
        package: dotted name of the package whose modules register here.
        check: raises a UserError for what cannot be registered.
    """

    def __init__(self, kind: str, package: str, *, check: Callable[[str, T], None] | None = None) -> None:
        self.kind = kind
        self._package, self._check = package, check
        self._entries: dict[str, Registered[T]] = {}
        self._loaded = False

    def register(self, name: str, *, pattern: str | None = None) -> Callable[[T], T]:
        """Return a decorator that registers its argument as ``name``.

        With ``pattern`` (a regular expression matched against the whole name) one entry serves a family of
        names, such as ``wrn-D-W``; its named groups are handed to the caller of :meth:`resolve`.

        Raises:
            UserError: the name is taken, or the value cannot be used as one of its kind.
        """

        def add(value: T) -> T:
            origin = getattr(value, "__module__", "")
            ours = origin.startswith(f"{self._package}.")
            if not ours:
                self._load()  # ours come first, so that no plugin takes their names
            if name in self._entries:
                taken = getattr(self._entries[name].value, "__module__", "elsewhere")
                raise UserError(f"{self.kind} {name!r} is taken by {taken}; register {origin}'s under another name")
            if self._check is not None:
                self._check(name, value)
            summary = (value.__doc__ or "").strip().partition("\n")[0]
            compiled = re.compile(pattern) if pattern is not None else None
            self._entries[name] = Registered(name, value, compiled, summary)
            if not ours:
                on_failure(lambda: self._entries.pop(name, None))
            return value

        return add

    def entries(self) -> list[Registered[T]]:
        """Return all entries, sorted by name."""
        self._load()
        load_installed()
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    def _load(self) -> None:
        """Import our own modules that register here."""
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._loaded = True

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


def check_keywords(kind: str, name: str, value: Callable[..., object], keywords: Sequence[str]) -> None:
    """Check that what is registered can be called with the keywords that it will be called with.

    Raises:
        UserError: it is not callable, or does not take one of them.
    """
    if not callable(value):
        raise UserError(f"{kind} {name!r} must be a class or a function, got {type(value).__name__}")
    parameters = inspect.signature(value).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    if missing := [keyword for keyword in keywords if keyword not in parameters]:
        raise UserError(
            f"{kind} {name!r} is called with {', '.join(f'{keyword}=' for keyword in keywords)}; "
            f"{getattr(value, '__name__', 'it')} does not take {', '.join(missing)}"
        )


def load_object(path: str) -> Any:
    """Return the object that ``module:name`` names, importing its module."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
