"""Which rows of a leaderboard are of one board. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from robustbench_gkl.results.published_rows import PUBLISHED, base_dataset

SHARED = "shared"
"""Where a leaderboard's ``attrs`` have what all rows share, which is no column then: ``{"split": "test"}``."""


class BoardSetting(NamedTuple):
    """What the rows of a board share; empty, or 0, where the leaderboard does not say it."""

    dataset: str = ""
    n: int = 0
    split: str = ""
    samples: str = ""
    threat: str = ""
    corruptions: int = 0

    @property
    def text(self) -> str:
        """Samples and threat: ``360 test images, linf 0.1``."""
        images = " ".join(filter(None, (f"{self.n:,}" if self.n else "", self.split, "images")))
        over = f"{self.corruptions} corruptions" if self.corruptions else self.threat
        return f"{images}{f' ({self.samples})' if self.samples else ''}, {over}"


def rows_by_board(frame: pd.DataFrame) -> dict[BoardSetting, list[int]]:
    """Return the places of the rows of each board, in the order in which they come.

    Published rows stand on the board of most samples among those of their data set and threat.
    """
    columns = [_column(frame, name) for name in BoardSetting._fields]
    own = [BoardSetting(*values) for values in zip(*columns, strict=True)]
    published = (frame["checks"] == PUBLISHED).tolist() if "checks" in frame else [False] * len(own)
    homes: dict[tuple[str, str], BoardSetting] = {}
    for setting, foreign in zip(own, published, strict=True):
        if not foreign and setting.split in ("", "test"):
            about = (base_dataset(setting.dataset), setting.threat)
            homes[about] = max(homes.get(about, setting), setting, key=lambda known: known.n)
    boards: dict[BoardSetting, list[int]] = defaultdict(list)
    for place, (setting, foreign) in enumerate(zip(own, published, strict=True)):
        home = homes.get((setting.dataset, setting.threat), setting._replace(split="test")) if foreign else setting
        boards[home].append(place)
    return dict(boards)


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    empty = BoardSetting._field_defaults[name]
    shared: Mapping[str, Any] = frame.attrs.get(SHARED, {})
    values = frame[name] if name in frame else [shared.get(name, empty)] * len(frame)
    return [empty if pd.isna(value) else value for value in values]
