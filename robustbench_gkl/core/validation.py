"""Validated values, and the conversion of pydantic's errors into one line."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from robustbench_gkl.core.errors import UserError, unknown

T = TypeVar("T")


_MESSAGES = {"missing": "is missing", "extra_forbidden": "there is no such key"}
_SPEAK_FOR_THEMSELVES = ("missing", "extra_forbidden", "value_error", "json_invalid")


def user_error(error: ValidationError, *, what: str, model: type[BaseModel] | None = None) -> UserError:
    """Return pydantic's ``error`` about ``what`` as one line that names each key, its value and what it needs.

    With the ``model`` that was to be made, a key that does not exist gets the ones that do.
    """
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        if item["type"] == "extra_forbidden" and model is not None:
            parts.append(_no_such_key(model, item["loc"]))
            continue
        key = ".".join(str(part) for part in item["loc"] if part not in ("function-before", "function-after"))
        message = _MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] in _SPEAK_FOR_THEMSELVES else f", got {reprlib.repr(item['input'])}"
        parts.append(f"{key}: {message}{got}" if key else f"{message}{got}")
    more = f"; and {len(parts) - 5} more" if len(parts) > 5 else ""
    return UserError(f"{what}: " + "; ".join(parts[:5]) + more)


def _no_such_key(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    *tables, key = map(str, location)
    for table in tables:
        inner = model.model_fields[table].annotation
        assert inspect.isclass(inner)
        assert issubclass(inner, BaseModel)
        model = inner
    return str(unknown(f"key of {'.'.join(tables)}" if tables else "key", key, model.model_fields))


def bind_options(factory: Callable[..., T], options: Mapping[str, object], *, what: str, **fixed: object) -> T:
    """Call ``factory`` with ``fixed`` and ``options``, the latter checked and converted by its annotations.

    Text such as ``"20"`` becomes the annotated type, so options may come from a command line or from TOML. A
    factory with ``**options`` gets those that it does not name as they are.

    Raises:
        UserError: an option that ``factory`` does not have (its options are listed) or of a wrong type or value; one
            that it gives no annotation; one that it gives no default and ``options`` no value.
    """
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    parameters = inspect.signature(factory).parameters
    anything = next((name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    known = [name for name in parameters if name not in fixed and name != anything]
    for name in known:
        if name not in hints:
            raise UserError(f"{what}: its option {name} has no annotation to check values by; add one, such as float")
        if parameters[name].default is inspect.Parameter.empty and name not in options:
            raise UserError(f"{what} needs a value for its option {name}, which has no default")
    values: dict[str, object] = {}
    for key, value in options.items():
        if key not in known and anything is not None:
            values[key] = value
            continue
        if key not in known:
            raise unknown(f"option of {what}", key, known)
        try:
            check_number(hints[key], value)
            values[key] = TypeAdapter(hints[key], config=ConfigDict(allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            raise user_error(error, what=f"{what}, option {key}") from None
        except ValueError as error:
            raise UserError(f"{what}, option {key}: {error}") from None
    return factory(**fixed, **values)


def check_number(annotation: object, value: object) -> None:
    """Check that true and false, which Python counts as 1 and 0, are not given as numbers.

    Args:
        annotation: the type that ``value`` is to have.
        value: what was given; lists are looked into.

    Raises:
        ValueError: a number is expected.
    """
    given = value if isinstance(value, (list, tuple)) else [value]
    if not any(isinstance(one, bool) for one in given):
        return
    kinds = _kinds(annotation)
    if any(kind in (int, float) for kind in kinds) and not any(kind in (bool, Any) for kind in kinds):
        raise ValueError(f"must be a number, got {value}")


def _kinds(annotation: object) -> list[object]:
    """Return the plain types that a type is made of."""
    inner = get_args(annotation)
    return [kind for part in inner for kind in _kinds(part)] if inner else [annotation]


class Frozen(BaseModel):
    """A configuration: frozen, with no keys but its own, defaults checked too; true and false are no numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_numbers(cls, value: object, info: ValidationInfo) -> object:
        # Only these can hold a boolean; a thousand records have ten thousand values.
        if isinstance(value, (bool, list, tuple)) and info.field_name is not None:
            check_number(cls.model_fields[info.field_name].annotation, value)
        return value


def validated(model: type[FrozenT], values: Mapping[str, object], *, what: str) -> FrozenT:
    """Return ``model`` made of ``values``.

    Raises:
        UserError: what is wrong with which key, in one line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise user_error(error, what=what, model=model) from None


FrozenT = TypeVar("FrozenT", bound=Frozen)
