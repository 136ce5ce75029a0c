"""``gklbench`` is another name of the same package."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import robustbench_gkl

ROOT = Path(__file__).parents[1]
_CHECK = """
import sys
import gklbench
assert "torch" not in sys.modules, "gklbench imports torch before it is needed"
import robustbench_gkl
assert gklbench is robustbench_gkl
import gklbench.core.errors
assert gklbench.core.errors is robustbench_gkl.core.errors
from gklbench.losses.trades import TRADES
import gklbench.losses, robustbench_gkl.losses.trades
assert gklbench.losses is robustbench_gkl.losses and TRADES is robustbench_gkl.losses.trades.TRADES
assert robustbench_gkl.losses.__spec__.name == "robustbench_gkl.losses"
assert gklbench.evaluate is robustbench_gkl.evaluate
copies = {name for name, module in sys.modules.items() if name.startswith("gklbench.")
          and module is not sys.modules["robustbench_gkl" + name.removeprefix("gklbench")]}
assert not copies, copies
try:
    import gklbench.nothing
except ModuleNotFoundError as error:
    print(error)
"""


def _python(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_both_names_are_the_same_modules() -> None:
    assert _python("-c", _CHECK) == "No module named 'gklbench.nothing'"


def test_it_does_not_matter_which_name_comes_first() -> None:
    text = "import robustbench_gkl.losses, gklbench.losses; print(gklbench.losses is robustbench_gkl.losses)"
    assert _python("-c", text) == "True"


def test_the_command_runs_under_both_names() -> None:
    assert _python("-m", "gklbench", "--version") == _python("-m", "robustbench_gkl", "--version")


def test_all_public_rooms_are_typed_under_both_names() -> None:
    rooms = {name for name in robustbench_gkl.__all__ if importlib.util.find_spec(f"robustbench_gkl.{name}")}
    stubs = {path.stem: path.read_text() for path in (ROOT / "gklbench").glob("*.pyi")}
    assert stubs == {name: f"from robustbench_gkl.{name} import *\n" for name in rooms}
    assert (ROOT / "gklbench" / "py.typed").exists()
