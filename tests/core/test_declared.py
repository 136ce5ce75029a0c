"""Names read from the source against those that the registries have; what is left to the registries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from robustbench_gkl.core import declared
from robustbench_gkl.core.declared import declared_names, refuse_unknown
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.registry import Registry
from robustbench_gkl.data import DATASETS
from robustbench_gkl.data.augment import AUGMENTATIONS
from robustbench_gkl.losses import LOSSES
from robustbench_gkl.models import MODELS


@pytest.mark.parametrize(
    ("registry", "name", "package"),
    [
        (LOSSES, "LOSSES", "losses"),
        (MODELS, "MODELS", "models"),
        (DATASETS, "DATASETS", "data"),
        (AUGMENTATIONS, "AUGMENTATIONS", "data"),
    ],
)
def test_the_source_names_what_the_registry_has(registry: Registry[Any], name: str, package: str) -> None:
    package = f"robustbench_gkl.{package}"
    ours = [entry for entry in registry.entries() if entry.value.__module__.startswith(f"{package}.")]
    expected = {entry.name: None if entry.pattern is None else entry.pattern.pattern for entry in ours}
    assert declared_names(package, name) == expected


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own, in a process that seems not to have imported torch."""
    folder = tmp_path / "declared_under_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "one.py").write_text('@THINGS.register("one")\nclass One: pass\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    return folder


def refuse(name: str, package: Path) -> None:
    refuse_unknown("thing", name, package=package.name, registry="THINGS")


def test_what_is_not_declared_is_refused(package: Path) -> None:
    refuse("one", package)
    with pytest.raises(UserError, match="unknown thing 'onne'; did you mean 'one'"):
        refuse("onne", package)


def test_a_pattern_serves_a_family(package: Path) -> None:
    (package / "two.py").write_text('THINGS.register("two-N", pattern=r"two-[0-9]+")(print)\n')
    refuse("two-7", package)
    with pytest.raises(UserError, match="unknown thing 'two-N'"):
        refuse("two-N", package)


def test_a_computed_name_leaves_all_to_the_registry(package: Path) -> None:
    (package / "two.py").write_text('for name in ("a", "b"):\n    THINGS.register(name)(print)\n')
    refuse("onne", package)


def test_a_plugin_leaves_all_to_the_registry(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "entry_points", lambda group: (group,))
    refuse("onne", package)


def test_an_import_of_torch_leaves_all_to_the_registry(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", pytest)
    refuse("onne", package)
