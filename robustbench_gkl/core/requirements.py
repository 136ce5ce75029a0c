"""What installed packages require of each other, as far as their metadata tells without a package for it."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?")
_BOUND = re.compile(r"(===|==|!=|>=|<=|~=|>|<)\s*([^\s,]+)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)['"]""")
_PYTHON = re.compile(r"""python_(?:full_)?version\s*(==|!=|>=|<=|>|<)\s*['"]([\d.]+)['"]""")


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
        """Return what is there instead, or None if it is met."""
        found = installed(self.name)
        if found is None:
            return "not installed"
        return None if meets(found, self.bounds) else found


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def requirements(package: str) -> list[Requirement]:
    """Return what an installed package requires here; none for one that is not installed.

    What is required for another system, Python or implementation is left out.
    """
    try:
        texts = requires(package) or []
    except PackageNotFoundError:
        return []
    found = []
    for text in texts:
        parts = _REQUIREMENT.fullmatch(text.strip())
        if parts is None:
            continue
        name, bounds, marker = parts[1], re.sub(r"\s+", "", parts[2]), parts[3] or ""
        extra = _EXTRA.search(marker)
        if _applies(marker):
            found.append(Requirement(name, bounds, extra[1] if extra else ""))
    return found


def _applies(marker: str) -> bool:
    """Return whether a marker, but for the extra, is known to hold here."""
    for operator, bound in _PYTHON.findall(marker):
        if not meets(platform.python_version(), f"{operator}{bound}"):
            return False
    return not re.sub(r"[\s()]|\band\b", "", _EXTRA.sub("", _PYTHON.sub("", marker)))


def meets(found: str, bounds: str) -> bool:
    """Return whether a version keeps within bounds such as ``>=2.4,<3``; pre-releases count as their release."""
    return all(_within(found, operator, bound) for operator, bound in _BOUND.findall(bounds))


def _within(found: str, operator: str, bound: str) -> bool:
    if bound.endswith(".*"):
        prefix = _release(bound[:-2])
        return (_release(found)[: len(prefix)] == prefix) is (operator != "!=")
    here, there = _release(found), _release(bound)
    if operator == "~=":
        return here >= there and here[: len(there) - 1] == there[:-1]
    size = max(len(here), len(there))
    one, other = (numbers + (0,) * (size - len(numbers)) for numbers in (here, there))
    return {
        "==": one == other,
        "===": found == bound,
        "!=": one != other,
        ">=": one >= other,
        "<=": one <= other,
        ">": one > other,
        "<": one < other,
    }[operator]


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, such as (2, 14, 1) for ``2.14.1+cpu``."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(map(int, match[1].split("."))) if match else ()
