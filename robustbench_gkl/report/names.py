"""Names cut to what tells them apart, for places where the whole does not fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_LONGEST = 26
"""Characters of a name that is left alone."""


def cut(name: str, length: int) -> str:
    """Return a name of at most ``length`` characters: its beginning and its end, where seeds and endings stand."""
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[len(name) - end :]}"


def short_datasets(names: Iterable[str]) -> dict[str, str]:
    """Return how each data set is called in little room: a path by its last parts, as many as tell it from the others.

    Names of different data sets stay different.
    """
    whole = sorted(set(names))
    short: dict[str, str] = {}
    for depth in range(1, 2 + max((len(_parts(name)) for name in whole), default=0)):
        left = [name for name in whole if name not in short]
        tried = {name: _by_its_end(name, depth) for name in left}
        taken = Counter([*tried.values(), *short.values()])
        short |= {name: text for name, text in tried.items() if taken[text] == 1}
    return {name: short.get(name, name) for name in whole}


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", name.partition(":")[2] or name) if part]


def _by_its_end(name: str, depth: int) -> str:
    parts = _parts(name)
    if len(name) <= _LONGEST or depth >= len(parts):
        return name
    kind = name.partition(":")[0] + ":" if ":" in name else ""
    return f"{kind}…/" + "/".join([*parts[-depth:-1], cut(parts[-1], _LONGEST)])
