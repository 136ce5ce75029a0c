"""Reading of files that may be damaged or hostile."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import from_json

from robustbench_gkl.core.errors import UserError

_WRITTEN_CONTROL = re.compile(
    rb"\\(u00[01][0-9a-f]|u007f|u00[89][0-9a-f]|[bfr]|u202[a-e]|u206[6-9])|\x7f|\xc2[\x80-\x9f]"
    rb"|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]",
    re.IGNORECASE,
)
"""How JSON in UTF-8 writes control characters other than tabs and line ends."""
_BEFORE_CONTROL = (b"\\", b"\x7f", b"\xc2", b"\xe2\x80", b"\xe2\x81")
"""One of these begins whatever that pattern finds; nearly no file has any."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Among them those that reorder the text around them."""


def read_table(content: bytes, *, what: str) -> dict[str, Any]:
    """Return the table in a JSON file's content, which ``what`` names in messages.

    Raises:
        UserError: it is no JSON, holds a number that is none, or no table.
    """
    try:
        values = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise UserError(f"{what} is broken: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{what} is broken: it holds no table")
    return values


def without_control_characters(values: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Return ``values`` with the control characters of their texts replaced, which could forge what people are shown.

    Args:
        values: read from ``content``.
        content: the file's; searched first, since nearly no file has any.
    """
    if not any(mark in content for mark in _BEFORE_CONTROL) or _WRITTEN_CONTROL.search(content) is None:
        return values
    return {_visible(key): _visible(value) for key, value in values.items()}


def _visible(value: Any) -> Any:
    """Return ``value`` with the control characters of its texts replaced."""
    if isinstance(value, str):
        return _CONTROL.sub("�", value)
    if isinstance(value, list):
        return [_visible(item) for item in value]
    return {_visible(key): _visible(item) for key, item in value.items()} if isinstance(value, dict) else value
