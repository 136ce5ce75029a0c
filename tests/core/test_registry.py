"""Names: found without lists, refused twice, suggested when wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.core.registry import Registry

INIT = """
from robustbench_gkl.core.registry import Registry

THINGS = Registry("thing", __name__)
"""
SIMPLE = """
from {package} import THINGS

@THINGS.register("{name}")
class {cls}:
    '''The first line says what it is.

    The rest does not.
    '''
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package with a registry and two files that register."""
    folder = tmp_path / "registry_under_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    for name in ("alpha", "beta"):
        text = SIMPLE.format(package=folder.name, name=name, cls=name.title())
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for module in [module for module in sys.modules if module.partition(".")[0] == folder.name]:
        del sys.modules[module]


def registry_of(package: Path) -> Registry[type]:
    import importlib

    importlib.invalidate_caches()
    things = importlib.import_module(package.name).THINGS
    assert isinstance(things, Registry)
    return things


def test_a_newcomer_is_one_new_file(package: Path) -> None:
    (package / "newcomer.py").write_text(SIMPLE.format(package=package.name, name="gamma", cls="Gamma"))
    things = registry_of(package)
    assert things.names() == ["alpha", "beta", "gamma"]
    value, groups = things.resolve("gamma")
    assert value.__name__ == "Gamma"
    assert groups == {}
    assert {entry.summary for entry in things.entries()} == {"The first line says what it is."}


def test_modules_are_imported_at_the_first_look_up(package: Path) -> None:
    things = registry_of(package)
    assert f"{package.name}.alpha" not in sys.modules
    things.names()
    assert f"{package.name}.alpha" in sys.modules


def test_duplicates_are_refused(package: Path) -> None:
    (package / "second_alpha.py").write_text(SIMPLE.format(package=package.name, name="alpha", cls="Other"))
    taken = f"thing 'alpha' is taken by {package.name}.alpha; register {package.name}.second_alpha's under another name"
    with pytest.raises(UserError, match=re.escape(taken)):
        registry_of(package).names()


def test_a_newcomer_from_elsewhere_takes_no_name_of_ours(package: Path) -> None:
    things = registry_of(package)
    with pytest.raises(UserError, match="'beta' is taken"):
        things.register("beta")(type("Elsewhere", (), {}))
    assert things.names() == ["alpha", "beta"]
    assert things.resolve("beta")[0].__name__ == "Beta"


def test_unknown_names_list_the_choices_and_the_closest(package: Path) -> None:
    things = registry_of(package)
    for name in ("alhpa", "ALPHA"):
        with pytest.raises(
            UserError, match=rf"unknown thing '{name}'; did you mean 'alpha'\? \(choose from alpha, beta\)"
        ):
            things.resolve(name)
    with pytest.raises(UserError, match=r"unknown thing 'zzz' \(choose from"):
        things.resolve("zzz")


def test_patterns(package: Path) -> None:
    (package / "family.py").write_text(
        f"""
from {package.name} import THINGS

@THINGS.register("fam-D", pattern=r"fam-(?P<depth>\\d+)")
def family(depth): ...

@THINGS.register("fam-0")
def exact(): ...
"""
    )
    things = registry_of(package)
    value, groups = things.resolve("fam-34")
    assert value.__name__ == "family"
    assert groups == {"depth": "34"}
    assert things.resolve("fam-0")[0].__name__ == "exact"
    for name in ("fam-", "fam-3x", "xfam-3"):
        with pytest.raises(UserError, match="unknown thing"):
            things.resolve(name)
    with pytest.raises(UserError, match="unknown thing"):
        things.resolve("fam-D")  # the name of a family stands for no member of it


def test_an_error_lists_no_thousand_choices() -> None:
    message = str(unknown("model", "net-x", [f"net-{i:04}" for i in range(1000)]))
    assert message.startswith("unknown model 'net-x'; did you mean 'net-")
    assert "(choose from net-0000, net-0001, " in message
    assert message.endswith(", net-0099 and 900 more)")
