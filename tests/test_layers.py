"""Imports point down only, and what must start fast imports no torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from synthetic_records import make_record, outcome

from robustbench_gkl.results import ResultStore

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "robustbench_gkl"

ROOMS: tuple[frozenset[str], ...] = (
    frozenset({"core"}),
    frozenset({"ranks", "config", "data", "models"}),
    frozenset({"losses", "attacks", "certification", "runs", "results"}),
    frozenset({"sources"}),
    frozenset({"training"}),
    frozenset({"evaluation"}),
    frozenset({"report"}),
    frozenset({"suite", "python", "plot"}),
    frozenset({"cli"}),
)
"""From the ground up: a room imports what lies below it, never a sibling and never what lies above; suite, which shows
nothing itself, not report."""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}

TORCH = ("torch", "torchvision", "torchattacks", "pyautoattack", "safetensors.torch", "timm")


TORCH_FREE = (
    "robustbench_gkl.core.declared",
    "robustbench_gkl.data.source_files",
    *(f"robustbench_gkl.evaluation.{name}" for name in ("answered", "question")),
)
"""What answers without torch, in rooms that need it elsewhere."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Return the room of the package that a dotted name belongs to, or "" for the package itself."""
    return [*module.split("."), ""][1]


def imports(tree: ast.AST, *, at_run_time: bool = False) -> Iterator[str]:
    """Yield the dotted names that are imported; ``at_run_time`` leaves out functions and ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point to"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif at_run_time and (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ):
            continue
        else:
            yield from imports(node, at_run_time=at_run_time)


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_down(path: Path) -> None:
    room = room_of(dotted(path))
    if room in ("", "__main__"):
        return  # the package's own face: its Python interface and the way into the command line
    for name in imports(ast.parse(path.read_text())):
        if name == "robustbench_gkl" or name.startswith("robustbench_gkl."):
            other = room_of(name)
            assert other in FLOOR, f"{dotted(path)} must not import {name}, which is in no room"
            below = other == room or (FLOOR[other] < FLOOR[room] and (room, other) != ("suite", "report"))
            assert below, f"{dotted(path)} must not import {name}: {other} does not lie below {room}"


def test_every_room_has_its_floor() -> None:
    found = {room_of(dotted(path)) for path in modules()} - {"", "__main__"}
    assert found == set(FLOOR), "say in ROOMS where each room lies"


def import_graph() -> dict[str, set[str]]:
    """Return the modules of ours that each module imports, inside functions and for type checkers too."""
    known = {dotted(path) for path in modules()}
    graph: dict[str, set[str]] = {}
    for path in modules():
        graph[dotted(path)] = set()
        for name in imports(ast.parse(path.read_text())):
            if name in known and not any(other.startswith(f"{name}.") for other in graph[dotted(path)]):
                graph[dotted(path)].add(name)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the circles of a graph, as topological sorting finds them: one at a time, until none is left."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_circle_of_imports() -> None:
    assert circles(import_graph()) == []


def test_a_circle_would_be_found() -> None:
    graph = import_graph()
    graph["robustbench_gkl.core.errors"].add("robustbench_gkl.cli")
    assert circles(graph) != []


@cache
def imported_names() -> dict[str, list[str]]:
    """Return what each of our modules imports when it is imported itself."""
    return {dotted(path): list(imports(ast.parse(path.read_text()), at_run_time=True)) for path in modules()}


def reached(start: str) -> set[str]:
    """Return all that importing ``start`` imports, following our own modules."""
    names = imported_names()
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in names:
            waiting += names[name]
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return seen


@pytest.mark.parametrize(
    "module",
    [
        dotted(path)
        for path in modules()
        if room_of(dotted(path)) in ("cli", "suite", "plot", "results", "report", "runs", "sources", "config")
        or dotted(path).startswith("robustbench_gkl.attacks.specs")
        or dotted(path) in TORCH_FREE
    ],
)
def test_no_torch_is_reached(module: str) -> None:
    assert not [name for name in reached(module) if name.startswith(TORCH)]


def test_the_walk_sees_torch_where_it_is() -> None:
    assert "torch" in reached("robustbench_gkl.losses.gkl")
    assert "torch" in reached("robustbench_gkl.evaluation.recorded")


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
        [
            "suite",
            "digits",
            "--dry-run",
            "--results-dir",
            "RESULTS",
            "--checkpoints-dir",
            "RESULTS",
        ],
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


LATE = ("torch._dynamo", "scipy", "pandas", "sklearn", "matplotlib", "numba")
"""What costs as much as a part of torch, and is imported where it is used."""


@pytest.mark.parametrize("room", ["evaluation.recorded", "python.evaluating", "training", "cli.eval_command"])
def test_what_is_heavy_is_imported_late(room: str) -> None:
    code = f"import sys, robustbench_gkl.{room}; print([name for name in {LATE} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_leaderboard_ranks_without_scipy(tmp_path: Path) -> None:
    for model in ("one", "other"):
        make_record(ResultStore(tmp_path), outcome(stands=3, broken=1), model=model)
    code = f"import sys, robustbench_gkl as gkl; print(len(gkl.leaderboard({str(tmp_path)!r})), 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_training_never_imports_the_compiler(tmp_path: Path) -> None:
    arguments = ["train", "digits-standard", "--name", "net", "--epochs", "1", "--set", "model=tiny-cnn"]
    arguments += ["--checkpoints-dir", str(tmp_path), "--quiet"]
    code = f"""
import sys
from robustbench_gkl.cli import run
code = run({arguments})
print(code, "torch.optim" in sys.modules, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "False"], done.stderr


def without_torch(*arguments: object, here: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["eval", "nope"], "no run 'nope'"),
        (["eval", "tiny", "--attack", "pgb"], "unknown attack 'pgb'; did you mean 'pgd'?"),
        (["eval", "tiny", "--dataset", "cifra10"], "unknown dataset 'cifra10'; did you mean 'cifar10'?"),
        (["train", "--loss", "tradse"], "unknown loss 'tradse'; did you mean 'trades'?"),
        (["train", "--model", "wnr-28"], "unknown model 'wnr-28'"),
        (["train", "--dataset", "digit"], "unknown dataset 'digit'; did you mean 'digits'?"),
        (["train", "--loss", "kd", "--teacher", "tony"], "no run 'tony'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_typo_is_refused_without_torch(arguments: list[str], expected: str, trained: Path, tmp_path: Path) -> None:
    base = [] if arguments[0] == "eval" else ["digits-trades"]
    done = without_torch(arguments[0], *base, *arguments[1:], "--checkpoints-dir", trained, here=tmp_path)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
