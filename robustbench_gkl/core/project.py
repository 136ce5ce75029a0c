"""Where the project is published, as the package's metadata have it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, metadata


@cache
def documentation() -> str:
    """Return the address of the published documentation, without a slash at its end; nothing where it is not known."""
    try:
        urls = metadata("gklbench").get_all("Project-URL") or []
    except PackageNotFoundError:  # run from a folder that was never installed
        return ""
    found = dict(str(url).split(", ", 1) for url in urls)
    return found.get("Documentation", "").rstrip("/")
