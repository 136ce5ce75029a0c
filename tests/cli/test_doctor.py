"""``gklbench doctor``: a sound installation passes, and each thing that is wrong is told with what to do."""

from __future__ import annotations

import json
from pathlib import Path

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
