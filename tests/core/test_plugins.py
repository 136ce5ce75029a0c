"""Plugins: files, modules and installed packages that register what is theirs."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_gkl.core import plugins
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.plugins import load_again, load_installed, load_plugins, loaded_plugins
from robustbench_gkl.losses import LOSSES

LOSS = '''
from robustbench_gkl.losses.base import LOSSES, Loss


@LOSSES.register("{name}")
class Mine(Loss):
    """A loss of {name}."""
'''


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Forget afterwards what a test has registered, imported and loaded."""
    LOSSES.names()
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("gklbench_plugin_", "my_")):
            del sys.modules[name]
    load_installed.cache_clear()


def write(path: Path, name: str, more: str = "") -> Path:
    """Write a plugin that registers a loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LOSS.format(name=name) + more)
    return path


def test_a_file_is_loaded_once_and_kept_with_its_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "own-loss")
    loaded = load_plugins(["mine.py"])
    assert list(loaded) == [str(path)]
    assert re.fullmatch("[0-9a-f]{64}", loaded[str(path)])
    assert load_plugins([str(path)]) == loaded == loaded_plugins()
    assert "own-loss" in LOSSES.names()
    assert LOSSES.resolve("own-loss")[0].__name__ == "Mine"


def test_a_module_in_the_working_directory_is_loaded_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "my_package/losses.py", "packaged")
    (tmp_path / "my_package/__init__.py").touch()
    assert list(load_plugins(["my_package.losses"])) == ["my_package.losses"]
    assert "packaged" in LOSSES.names()


def test_what_a_run_was_made_with_is_found_again(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "own-loss")
    made_with = load_plugins(["mine.py"])
    load_again(made_with, what="run r")  # loaded already: nothing is registered twice
    path.write_text(path.read_text() + "\n# edited\n")
    load_again(made_with, what="run r")
    plugins._loaded.clear()
    with pytest.raises(UserError, match=r"run r was made with another version of the plugin .*mine\.py"):
        load_again(made_with, what="run r")
    path.unlink()
    with pytest.raises(UserError, match=r"run r was made with the plugin .*mine\.py, which is not there"):
        load_again(made_with, what="run r")


def test_the_same_code_elsewhere_stands_in_for_it(tmp_path: Path) -> None:
    made_with = load_plugins([str(write(tmp_path / "here/mine.py", "own-loss"))])
    (tmp_path / "here/mine.py").unlink()
    plugins._loaded.clear()
    LOSSES._entries.pop("own-loss")
    load_plugins([str(write(tmp_path / "there/mine.py", "own-loss"))])
    load_again(made_with, what="run r")


def test_a_taken_name_is_one_line_and_leaves_the_registry_usable(tmp_path: Path) -> None:
    before = LOSSES.names()
    write(tmp_path / "mine.py", "trades")
    with pytest.raises(UserError, match=r"loss 'trades' is taken by robustbench_gkl\.losses\.trades"):
        load_plugins(["mine.py"])
    assert LOSSES.names() == before
    assert LOSSES.resolve("trades")[0].__module__ == "robustbench_gkl.losses.trades"
    write(tmp_path / "mine.py", "mended")
    load_plugins(["mine.py"])
    assert "mended" in LOSSES.names()


def test_an_error_after_something_was_registered_can_be_mended(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", "own-loss", "\n1 / 0\n")
    with pytest.raises(UserError, match=r"mine\.py, line 9: .*division by zero"):
        load_plugins(["mine.py"])
    assert "own-loss" not in LOSSES.names()
    write(tmp_path / "mine.py", "own-loss")
    load_plugins(["mine.py"])
    assert "own-loss" in LOSSES.names()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("import nowhere_at_all", r"mine\.py, line 1: .*nowhere_at_all.*; install it"),
        ("x = 1\ndef broken(:\n", r"mine\.py, line 2: SyntaxError"),
        ("raise SystemExit(3)", r"mine\.py ends the program"),
    ],
)
def test_an_error_is_one_line_with_its_place(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        load_plugins(["mine.py"])
    assert "\n" not in str(caught.value)
    assert loaded_plugins() == {}


@pytest.mark.parametrize("argument", ["absent.py", "no_such_module_here", "net.txt", "a-b", "", "sys"])
def test_what_is_no_plugin_is_refused(argument: str) -> None:
    with pytest.raises(UserError, match="--plugin"):
        load_plugins([argument])


def installed(site: Path, module: str, content: str) -> None:
    """Lay a package and its dist-info where an installer would."""
    (site / f"{module}.py").write_text(content)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gklbench.plugins]\n{module} = {module}\n")


def test_installed_plugins_are_found_and_a_broken_one_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(tmp_path, "my_plugin", LOSS.format(name="installed-loss"))
    installed(tmp_path, "my_broken", LOSS.format(name="gkl"))
    monkeypatch.syspath_prepend(tmp_path)
    load_installed.cache_clear()
    with caplog.at_level(logging.WARNING, logger="robustbench_gkl"):
        assert "installed-loss" in LOSSES.names()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("the plugin my_broken of my_broken is left out")
    assert "loss 'gkl' is taken" in warning
    assert LOSSES.resolve("gkl")[0].__module__ == "robustbench_gkl.losses.gkl"
