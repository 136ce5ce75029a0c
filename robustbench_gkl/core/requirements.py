"""What installed packages require of each other, by their metadata."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as _Parsed
from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Requirement:
    """A package that another one requires.

    Attributes:
        name: of the required package, as its metadata is found by.
        bounds: on its version, such as ``>=2.4,<3``; empty for any.
        extra: of the other one that requires it; empty if it does so in any case.
    """

    name: str
    bounds: str
    extra: str

    def __str__(self) -> str:
        """Return it as one would write it."""
        return f"{self.name}{self.bounds}"

    def problem(self) -> str | None:
        """Return what is there instead, or None if it is met; a pre-release may meet it."""
        found = installed(self.name)
        if found is None:
            return "not installed"
        return None if SpecifierSet(self.bounds).contains(found, prereleases=True) else found


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def requirements(package: str) -> list[Requirement]:
    """Return what an installed package requires here; none for one that is not installed.

    What is required for another system, Python or implementation is left out, and what is not written by the rules.
    """
    try:
        facts = metadata(package)
    except PackageNotFoundError:
        return []
    extras = ("", *(facts.get_all("Provides-Extra") or ()))
    found = []
    for text in facts.get_all("Requires-Dist") or ():
        try:
            parsed = _Parsed(text)
        except InvalidRequirement:
            continue
        marker = parsed.marker
        extra = next((name for name in extras if marker is None or marker.evaluate({"extra": name})), None)
        if extra is not None:
            found.append(Requirement(parsed.name, str(parsed.specifier), extra))
    return found
