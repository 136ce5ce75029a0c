"""Pages and files made from the code when the documentation is built: recipes, names, JSON Schemas and their keys."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

from robustbench_gkl.attacks import ATTACKS
from robustbench_gkl.config.idle import CLEAN_LOSSES
from robustbench_gkl.config.recipes import published_figures, read_recipe, recipe_names
from robustbench_gkl.config.schema import EvalConfig, TrainConfig
from robustbench_gkl.core.registry import Registry
from robustbench_gkl.core.validation import validated
from robustbench_gkl.data import DATASETS
from robustbench_gkl.losses import LOSSES
from robustbench_gkl.models import MODELS
from robustbench_gkl.results.corruptions import CorruptionRecord
from robustbench_gkl.results.record import SCHEMA_VERSION, Record
from robustbench_gkl.runs.config import RunConfig
from robustbench_gkl.suite.partition import SlurmSettings

FOLDER = Path(__file__).parents[1] / "_generated"
ROOT = FOLDER.parents[1]
SCHEMAS: dict[str, type[BaseModel]] = {
    "recipe": TrainConfig,
    "evaluation": EvalConfig,
    "record": Record,
    "corruptions": CorruptionRecord,
    "run": RunConfig,
    "slurm": SlurmSettings,
}
"""The models whose JSON Schema is published, by the name of its file."""
REGISTRIES: dict[str, Registry[Any]] = {"losses": LOSSES, "attacks": ATTACKS, "models": MODELS, "datasets": DATASETS}


def plain(text: str) -> str:
    """Return a docstring's text as Markdown: roles become their names."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([\w ]+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def recipes() -> str:
    """Return a table of the recipes with the figures that their authors report."""
    rows = []
    for name in recipe_names():
        config = validated(TrainConfig, read_recipe(name), what=name)
        figures = published_figures(name)
        reported = ["", "", ""]
        if figures is not None:
            both = ("" if value is None else f"{value:.2f}" for value in (figures.clean, figures.autoattack))
            reported = [*both, figures.source]
        threat = "" if config.loss in CLEAN_LOSSES else f", {config.threat.threat()}"
        taught = "" if config.teacher is None else f" from {config.teacher}"
        what = f"{config.dataset}, {config.model}{taught}{threat}"
        rows.append([f"`{name}`<br>{config.loss}, {what}", str(config.epochs), *reported])
    return table(["Recipe, with its loss, data, network and threat", "Epochs", "Clean", "AutoAttack", "Source"], rows)


def names(kind: str) -> str:
    """Return a table of what is registered."""
    rows = ([f"`{entry.name}`", plain(entry.summary)] for entry in REGISTRIES[kind].entries())
    return table(["Name", "What it is"], rows)


def options(kind: str) -> str:
    """Return the options of what is registered, with the docstring's words."""
    parts = []
    for entry in REGISTRIES[kind].entries():
        described = dict(_arguments(entry.value.__doc__ or ""))
        if described:
            rows = [[f"`{key}`", _default(entry.value, key), text] for key, text in described.items()]
            parts.append(
                f"### {entry.name}\n\n{plain(entry.summary)}\n\n{table(['Option', 'Default', 'Meaning'], rows)}"
            )
    return "\n".join(parts)


def _default(value: Any, keys: str) -> str:
    """Return the defaults of an option, or of several with commas between; nothing where it must be given."""
    parameters = inspect.signature(value).parameters
    found = [parameters[key].default for key in keys.split(", ") if key in parameters]
    return ", ".join(f"`{default}`" for default in found if default not in (inspect.Parameter.empty, None))


def _arguments(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield the options in the section ``Args`` of a docstring, and what they mean."""
    section = re.search(r"\n    Args:\n(.*?)(?:\n\n|\Z)", docstring + "\n\n", flags=re.DOTALL)
    for entry in re.split(r"\n        (?=\S)", "\n" + section[1]) if section else []:
        name, colon, text = entry.partition(":")
        if colon and name.strip():
            yield name.strip(), plain(text)


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON Schema, with the docstrings of its keys as descriptions."""
    found = model.model_json_schema(mode="serialization")
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
    docs = {cls.__name__: _key_docs(cls) for cls in _models(model, set())}
    for name, part in [(model.__name__, found), *found.get("$defs", {}).items()]:
        for key, value in part.get("properties", {}).items():
            if text := docs.get(name, {}).get(key):
                value["description"] = text
    return found


def _models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """Return a model and all models in its fields."""
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for part in _parts(field.annotation):
                _models(part, seen)
    return seen


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _parts(inner)


def _key_docs(cls: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings after a class's fields, or its section ``Attributes``, say."""
    analyzer = ModuleAnalyzer.for_module(cls.__module__)
    after = {
        key: plain(" ".join(lines)) for (name, key), lines in analyzer.find_attr_docs().items() if name == cls.__name__
    }
    return dict(_arguments((cls.__doc__ or "").replace("Attributes:", "Args:"))) | after


def keys(found: Mapping[str, Any]) -> str:
    """Return a table of the keys of a JSON Schema, inner ones dotted."""
    return table(["Key", "Type", "Default", "Meaning"], _rows(found, found.get("$defs", {}), ""))


def _rows(part: Mapping[str, Any], defs: Mapping[str, Any], prefix: str) -> Iterator[list[str]]:
    for key, value in part.get("properties", {}).items():
        inner = _inner(value, defs)
        default = json.dumps(value["default"]) if "default" in value and not isinstance(value["default"], dict) else ""
        if inner is None or value.get("description"):
            shown = _type(value) if inner is None else "table"
            yield [f"`{prefix}{key}`", shown, f"`{default}`" if default else "", value.get("description", "")]
        if inner is not None:
            many = "[]" if value.get("type") == "array" else ""
            yield from _rows(inner, defs, f"{prefix}{key}{many}.")


def _inner(value: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the table that a value is, or is a list of; None for any other."""
    for part in (value, value.get("items", {}), *value.get("anyOf", ())):
        if "$ref" in part:
            found: Mapping[str, Any] = defs[part["$ref"].rpartition("/")[2]]
            return found
    return None


def _type(value: Mapping[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_type(part) for part in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    kind = value.get("type", "any")
    if kind == "array" and "items" in value:
        return f"list of {_type(value['items'])}"
    return {"null": "none", "object": "table", "string": "text"}.get(kind, kind)


def check_records(found: Mapping[str, Any]) -> None:
    """Check the schema of records against the records of the examples, and that it refuses a changed one."""
    validator = jsonschema.Draft202012Validator(found)
    paths = sorted((ROOT / "results" / "examples").glob("*/records/*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    records = [record for record in records if record["schema_version"] == SCHEMA_VERSION] or [
        json.loads(Record.read(path.read_bytes(), what=path.name).text()) for path in paths
    ]
    for record in records:
        validator.validate(record)
    if not records or validator.is_valid({**records[0], "clean_acc": "high"}):
        raise ValueError("the schema of records was not tested: no records, or one that accepts anything")


def write(app: Sphinx) -> None:
    """Write all of it."""
    pages = {"recipes": recipes()} | {kind: names(kind) for kind in REGISTRIES}
    pages |= {f"{kind}-options": options(kind) for kind in ("losses", "attacks")}
    folder = FOLDER / "extra" / "schemas"
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in SCHEMAS.items():
        found = schema(model)
        if name == "record":
            check_records(found)
        (folder / f"{name}.schema.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        pages[f"{name}-keys"] = keys(found)
    for name, text in pages.items():
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write everything before pages are read."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
