"""Every key of our files has a written meaning: the reference of formats and the JSON Schemas are made of them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from robustbench_gkl.config.schema import EvalConfig, TrainConfig
from robustbench_gkl.results.corruptions import CorruptionRecord
from robustbench_gkl.results.record import Record
from robustbench_gkl.runs.config import RunConfig
from robustbench_gkl.suite.partition import SlurmSettings


def tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the tables that a key's values are, or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from tables(inner)


def with_inner(table: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a table and those inside it."""
    yield table
    for field in table.model_fields.values():
        for inner in tables(field.annotation):
            yield from with_inner(inner)


def described(table: type[BaseModel]) -> set[str]:
    """Return the keys with a docstring after them, or in the section ``Attributes``."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(table))).body
    assert isinstance(found, ast.ClassDef)
    keys = re.findall(r"^ {8}(\w+): \S", table.__doc__ or "", flags=re.MULTILINE)
    for key, text in zip(found.body, found.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            keys.append(ast.unparse(key.target))
    return set(keys)


@pytest.mark.parametrize("file", [Record, CorruptionRecord, RunConfig, TrainConfig, EvalConfig, SlurmSettings])
def test_every_key_has_a_meaning(file: type[BaseModel]) -> None:
    """A key that is a table itself has that of its keys."""
    lacking = [
        f"{table.__name__}.{key}"
        for table in dict.fromkeys(with_inner(file))
        for key, field in table.model_fields.items()
        if key not in described(table) and not any(tables(field.annotation))
    ]
    assert lacking == []
