"""``key=value`` assignments and options laid over the keys of a recipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from robustbench_gkl.core.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_assignment(text: str) -> tuple[str, object]:
    """Return the key and the value of ``key=value``; the value is read as TOML where it is valid TOML, else as text.

    Raises:
        UserError: no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set needs key=value, such as optimizer.lr=0.1; got {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        return key.strip(), value.strip()


def put_key(values: dict[str, Any], key: str, value: object) -> None:
    """Put ``value`` into nested ``values``; the key ``optimizer.lr`` reaches into a table.

    Raises:
        UserError: a key that leads through something that is no table.
    """
    *tables, last = key.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {key}: {table} is not a table of keys")
        values = inner
    values[last] = value


def set_key(values: dict[str, Any], assignment: str) -> None:
    """Apply one ``key=value`` to nested ``values``.

    Raises:
        UserError: as :func:`read_assignment` and :func:`put_key`.
    """
    key, value = read_assignment(assignment)
    put_key(values, key, value)


SHORT_KEYS = {"norm": "threat.norm", "eps": "threat.eps", "lr": "optimizer.lr"}
"""Keys that have an option of their own, and where they belong."""


def with_changes(values: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """Return training keys with ``changes`` (dotted or short key to value) laid over them.

    Another loss leaves the options of the one before behind.

    Raises:
        UserError: a key that leads through something that is no table.
    """
    changed = _copy(values)
    if changes.get("loss", values.get("loss")) != values.get("loss"):
        changed.pop("loss_options", None)
    for key, value in changes.items():
        put_key(changed, SHORT_KEYS.get(key, key), value)
    return changed


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested ``values`` under dotted keys; an empty table stays a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def given_keys(changes: Mapping[str, object]) -> set[str]:
    """Return the dotted keys that ``changes`` (dotted or short key to value, or to a table of them) set."""
    return set(flat({SHORT_KEYS.get(key, key): value for key, value in changes.items()}))


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """Return the keys in which two nested settings differ, with both values; one that a side lacks is None there."""
    there, here = ({key: value for key, value in flat(side).items() if value != {}} for side in (theirs, ours))
    return [(key, there.get(key), here.get(key)) for key in here | there if there.get(key) != here.get(key)]


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, object, object] | None:
    """Return the first of the :func:`differences`; None if there is none."""
    return next(iter(differences(theirs, ours)), None)


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}
