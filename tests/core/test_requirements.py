"""Requirements as the metadata of installed packages has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_gkl.core.requirements import Requirement, installed, requirements

METADATA = """\
Metadata-Version: 2.1
Name: ours
Version: 2.32
Provides-Extra: report
Provides-Extra: dev
Requires-Dist: numpy>=1
Requires-Dist: ours (~=2.25.1)
Requires-Dist: absent; python_version >= '3.8'
Requires-Dist: tomli>=2; python_version < '3.8'
Requires-Dist: colorama ; sys_platform == 'none'
Requires-Dist: plotly>=6.0; extra == "report"
Requires-Dist: ours[report]; extra == 'dev'
Requires-Dist: not a requirement
"""


@pytest.fixture(autouse=True)
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that consists of its metadata."""
    (tmp_path / "ours-2.32.dist-info").mkdir()
    (tmp_path / "ours-2.32.dist-info" / "METADATA").write_text(METADATA, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def test_requirements_are_read_from_metadata() -> None:
    assert requirements("ours") == [
        Requirement("numpy", ">=1", ""),
        Requirement("ours", "~=2.25.1", ""),
        Requirement("absent", "", ""),
        Requirement("plotly", ">=6.0", "report"),
        Requirement("ours", "", "dev"),
    ]
    assert requirements("absent") == []


def test_what_is_there_instead_is_told() -> None:
    assert (installed("ours"), installed("absent")) == ("2.32", None)
    assert Requirement("absent", "", "").problem() == "not installed"
    assert Requirement("ours", "~=2.25.1", "").problem() == "2.32"
    assert Requirement("ours", ">=2,!=2.31.*", "").problem() is None
