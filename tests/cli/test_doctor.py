"""``gklbench doctor``: a sound installation passes, and each thing that is wrong is told with what to do."""

from __future__ import annotations

import builtins
import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine

from robustbench_gkl.core import requirements
from robustbench_gkl.core.requirements import Requirement


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sound_installation_passes_and_nothing_is_left(workplace: Path, gklbench: CommandLine) -> None:
    result = gklbench("doctor", "--device", "cpu", "--json", "doctor.json")
    assert result.code == 0, result.out + result.err
    findings = {finding["what"]: finding for finding in json.loads(Path("doctor.json").read_text())}
    assert all(finding["verdict"] == "ok" or finding["advice"] for finding in findings.values())
    for what in ("gklbench", "Python", "packages", "conflicts", "folder for results", "cpu", "speed on cpu"):
        assert f"{what}: {findings[what]['figure']}" in result.out
    assert "torch 2" in findings["packages"]["figure"]
    assert [path.name for path in workplace.iterdir()] == ["doctor.json"]


def test_a_folder_that_cannot_be_written_to_is_a_failure(gklbench: CommandLine) -> None:
    Path("results").write_text("a file is in the way")
    result = gklbench("doctor", "--device", "cpu")
    assert result.code == 1
    assert "fail folder for results: results: " in result.out
    assert result.err == "Error: folder for results must be put right\n"


def test_stale_and_clashing_packages_are_told(gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = requirements.requirements

    def wanting(package: str) -> list[Requirement]:
        more = {"gklbench": Requirement("click", ">=999", ""), "click": Requirement("rich", "<1", "")}
        return wanted(package) + ([more[package]] if package in more else [])

    monkeypatch.setattr(requirements, "requirements", wanting)
    result = gklbench("doctor", "--device", "cpu")
    assert result.code == 1
    assert "fail packages: click>=999 is required: " in result.out
    assert "pip install 'click>=999'" in result.out
    (conflicts,) = [line for line in result.out.splitlines() if " conflicts: " in line]
    assert conflicts.startswith("warn")
    assert "click requires rich<1: " in conflicts


@pytest.mark.parametrize("problem", [AttributeError("no attribute extension"), ImportError()])
def test_whatever_the_import_of_torch_raises_is_a_finding(
    problem: Exception, workplace: Path, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(builtins, "__import__", failing(builtins.__import__, "torchvision", problem))
    result = gklbench("doctor", "--json", "made/doctor.json")
    assert result.code == 1
    assert f"fail import of torch and torchvision: {type(problem).__name__}" in result.out
    assert json.loads((workplace / "made" / "doctor.json").read_text())[-1]["verdict"] == "fail"


def failing(usual: Callable[..., Any], package: str, problem: Exception) -> Callable[..., Any]:
    """Return an import that raises for one package."""

    def imported(name: str, *arguments: Any, **options: Any) -> Any:
        if name == package:
            raise problem
        return usual(name, *arguments, **options)

    return imported


def test_a_device_that_is_not_there_is_a_failure_and_none_at_all_is_refused(gklbench: CommandLine) -> None:
    result = gklbench("doctor", "--device", "cuda:99")
    assert result.code == 1
    assert "fail speed on cuda:99: --device cuda:99: this machine has " in result.out
    for name in ("gpu", "cuda:²", "cpu:0", "cuda:"):
        result = gklbench("doctor", "--device", name)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"Error: --device must be auto, cpu, cuda or cuda:i, got {name!r}\n"


def test_a_folder_below_one_that_cannot_be_looked_into_is_a_failure(
    gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Path.exists

    def exists(path: Path) -> bool:  # as for any user but root
        if path.name == "runs":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(Path, "exists", exists)
    result = gklbench("doctor", "--device", "cpu", "--checkpoints-dir", "closed/runs")
    assert "fail folder for checkpoints: closed/runs: Permission denied" in result.out
    assert "speed on cpu" in result.out
