"""The names that our own modules register, read from their source: to refuse a typo takes no import of torch."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from robustbench_gkl.core.errors import unknown
from robustbench_gkl.core.plugins import GROUP, loaded_plugins


def nothing_installed() -> bool:
    """Return whether no plugin can have registered anything: there is none, and torch is not imported.

    What registers losses, models or data sets imports torch.
    """
    return sys.modules.get("torch") is None and no_plugins()


def no_plugins() -> bool:
    """Return whether no plugin is loaded or installed."""
    return not loaded_plugins() and not entry_points(group=GROUP)


def refuse_unknown(kind: str, name: str, *, package: str, registry: str) -> None:
    """Refuse a name that a registry does not have, as the registry itself would, where its source tells without torch.

    Nothing is refused where a plugin may have the name, or where a module registers names that its source does not
    spell out; the registry then says it later.

    Args:
        kind: what is named, as in "unknown loss".
        name: what was given.
        package: dotted name of the package whose modules register.
        registry: the name of the registry in them, such as ``LOSSES``.

    Raises:
        UserError: nothing of that name; the message lists the choices and the closest one.
    """
    declared = declared_names(package, registry)
    if not declared or not nothing_installed():
        return
    for known, pattern in declared.items():
        if name == known if pattern is None else re.fullmatch(pattern, name):
            return
    raise unknown(kind, name, declared)


def declared_names(package: str, registry: str) -> dict[str, str | None] | None:
    """Return the names that the modules of a package register by literals, with their patterns.

    None if a module computes a name or a pattern, or if there is no source.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return None
    found: dict[str, str | None] = {}
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            for call in _registrations(text, registry):
                values = [*call.args, *(keyword.value for keyword in call.keywords)]
                literal = [value.value for value in values if isinstance(value, ast.Constant)]
                if len(literal) != len(values) or len(call.args) != 1:
                    return None
                found[str(literal[0])] = str(literal[1]) if len(literal) > 1 else None
    return found or None


def _registrations(text: str, registry: str) -> Iterator[ast.Call]:
    """Yield the calls of ``REGISTRY.register`` in a module's source."""
    if f"{registry}.register" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "register"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == registry
        ):
            yield node
