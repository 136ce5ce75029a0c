"""The suites that come with the package."""

from __future__ import annotations

from pathlib import Path

from robustbench_gkl.core.errors import unknown

SUITES = Path(__file__).parents[1] / "suites"


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package, sorted."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def suite_path(name: Path) -> Path:
    """Return the file of a suite: ``name`` itself if it is a file or has a suffix, else the shipped suite of that name.

    Raises:
        UserError: neither a file nor a shipped suite.
    """
    if name.suffix or name.is_file():
        return name
    if str(name) not in suite_names():
        raise unknown("suite", str(name), suite_names())
    return SUITES / f"{name}.toml"
