"""Mappings read from TOML and JSON files, and written as TOML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_gkl.core.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def to_toml(values: Mapping[str, Any]) -> str:
    """Return nested ``values`` (text, numbers, booleans, lists and tables of them) as TOML; None is left out."""
    import tomli_w

    return tomli_w.dumps(_without_none(values))


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a TOML or JSON file.

    Raises:
        UserError: absent, unreadable or malformed.
    """
    import json

    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid {path.suffix[1:].upper()}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold one table of keys, got {type(values).__name__}")
    return values
