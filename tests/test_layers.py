"""Imports point down only, and what must start fast imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic_records import make_record, outcome

from robustbench_gkl.results import ResultStore

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "robustbench_gkl"

CORE = frozenset({"core", "ranks", "config"})
PARTS = frozenset({"losses", "attacks", "models", "data"})
RUNS = frozenset({"runs"})
JOBS = frozenset({"training", "evaluation"})
VIEWS = frozenset({"results", "report"})

ALLOWED: dict[str, frozenset[str]] = {
    "cli": CORE | PARTS | RUNS | JOBS | VIEWS | frozenset({"suite"}),
    "suite": CORE | RUNS | frozenset({"results", "attacks", "data"}),
    "evaluation": CORE | PARTS | RUNS | frozenset({"results"}),
    "training": CORE | PARTS | RUNS,
    "report": CORE | RUNS | frozenset({"results", "attacks", "evaluation"}),
    "results": CORE | frozenset({"data"}),
    "runs": CORE | frozenset({"models"}),
    **dict.fromkeys(PARTS, CORE),
    "config": frozenset({"core"}),
    "ranks": frozenset({"core"}),
    "core": frozenset(),
}
"""What each part of the package may import beside itself: cli -> jobs and views -> runs -> parts -> core."""

TORCH = ("torch", "torchvision", "torchattacks", "pyautoattack", "safetensors.torch", "timm")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the part of the package that a dotted name belongs to, or "" for the package itself."""
    return [*module.split("."), ""][1]


def imports(tree: ast.AST, *, at_run_time: bool = False) -> Iterator[str]:
    """Yield the dotted names that are imported; ``at_run_time`` leaves out functions and ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point to"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif at_run_time and (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            continue
        else:
            yield from imports(node, at_run_time=at_run_time)


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_down(path: Path) -> None:
    part = part_of(dotted(path))
    if part in ("", "__main__"):
        return  # the package's own face: its version, its Python interface and the way into the command line
    own = {part_of(name) for name in imports(ast.parse(path.read_text())) if name.startswith("robustbench_gkl.")}
    own -= {"__version__", part}
    assert own <= ALLOWED[part], f"{dotted(path)} must not import {', '.join(sorted(own - ALLOWED[part]))}"


def test_every_part_has_its_layer() -> None:
    found = {part_of(dotted(path)) for path in modules()} - {"", "__main__"}
    assert found <= set(ALLOWED), f"say in ALLOWED what {', '.join(sorted(found - set(ALLOWED)))} may import"


def reached(start: str) -> set[str]:
    """Return all that importing ``start`` imports, following our own modules."""
    trees = {dotted(path): ast.parse(path.read_text()) for path in modules()}
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in trees:
            waiting += imports(trees[name], at_run_time=True)
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return seen


@pytest.mark.parametrize(
    "module",
    [
        dotted(path)
        for path in modules()
        if part_of(dotted(path)) in ("cli", "suite", "results", "report", "runs", "config")
        or dotted(path).startswith("robustbench_gkl.attacks.specs")
    ],
)
def test_no_torch_is_reached(module: str) -> None:
    assert not [name for name in reached(module) if name.startswith(TORCH)]


def test_the_walk_sees_torch_where_it_is() -> None:
    assert "torch" in reached("robustbench_gkl.losses.gkl")
    assert "torch" in reached("robustbench_gkl.evaluation.job")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails from here on
from robustbench_gkl.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["eval", "--help"],
        ["merge", "--help"],
        ["import", "--help"],
        ["leaderboard", "--help"],
        ["list", "--help"],
        ["leaderboard", "--results-dir", "RESULTS", "--csv", "RESULTS/table.csv"],
        ["suite", "--help"],
        ["suite", "results/examples/digits/suite.toml", "--dry-run", "--results-dir", "RESULTS"],
        ["plan", "--help"],
    ],
    ids=" ".join,
)
def test_commands_that_need_no_torch(arguments: list[str], tmp_path: Path) -> None:
    if "leaderboard" in arguments:
        for attack in ("pgd-20", "autoattack"):
            make_record(ResultStore(tmp_path), outcome(stands=3, broken=1, by=attack), attacks=(attack,))
    filled = [argument.replace("RESULTS", str(tmp_path)) for argument in arguments]
    command = [sys.executable, "-c", WITHOUT_TORCH, *filled]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
