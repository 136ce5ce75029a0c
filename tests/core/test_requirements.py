"""Versions and their bounds, by PEP 440's own examples, and requirements as metadata has them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from robustbench_gkl.core import requirements
from robustbench_gkl.core.requirements import Requirement, meets


@pytest.mark.parametrize(
    ("version", "bounds", "met"),
    [
        ("2.14.1+cpu", ">=2.4", True),
        ("2.3.9", ">=2.4", False),
        ("2.10", ">=2.4,<3", True),
        ("3.0", ">=2.4,<3", False),
        ("1.1", "==1.1.0", True),
        ("1.1.1", "==1.1.2", False),
        ("2.25.1", "~=2.25.1", True),
        ("2.32.0", "~=2.25.1", False),
        ("2.26", "~=2.2", True),
        ("8.3.1", "!=8.3.*,>=5.3.0", False),
        ("8.4", "!=8.3.*,>=5.3.0", True),
        ("1.4.2", "==1.4.*", True),
        ("1.0", "", True),
    ],
)
def test_a_version_meets_its_bounds(version: str, bounds: str, met: bool) -> None:
    assert meets(version, bounds) is met


def test_requirements_are_read_from_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        "torch>=2.4",
        "requests (~=2.25.1)",
        "tomli>=2; python_version < '3.11'",
        "wide>=1; python_version >= '3.8'",
        "colorama ; sys_platform == 'win32'",
        'plotly>=6.0; extra == "report"',
        "gklbench[report,slurm]; extra == 'dev'",
    ]
    monkeypatch.setattr(requirements, "requires", lambda package: texts)
    monkeypatch.setattr("robustbench_gkl.core.requirements.platform.python_version", lambda: "3.12.1")
    assert requirements.requirements("any") == [
        Requirement("torch", ">=2.4", ""),
        Requirement("requests", "~=2.25.1", ""),
        Requirement("wide", ">=1", ""),
        Requirement("plotly", ">=6.0", "report"),
        Requirement("gklbench", "", "dev"),
    ]


def test_what_is_there_instead_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "absent":
            raise PackageNotFoundError
        return "2.32"

    monkeypatch.setattr(requirements, "version", version)
    assert Requirement("absent", "", "").problem() == "not installed"
    assert Requirement("requests", "~=2.25.1", "").problem() == "2.32"
    assert Requirement("requests", ">=2", "").problem() is None
