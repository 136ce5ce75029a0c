"""Clean against robust accuracy, as plotly.js reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from robustbench_gkl.report.boards import Board
from robustbench_gkl.report.content import Point
from robustbench_gkl.report.figures import COLOURS, SYMBOLS, Figure, error_bars, escape, interval_text, percent_axis
from robustbench_gkl.report.labels import place_labels
from robustbench_gkl.report.names import cut
from robustbench_gkl.results.tiers import PLACES, UNRANKED

_ROOM = ((230, 15), (560, 28), (1000, 40))
"""Pixels across the smallest plot of each kind, and letters of a name on it. The second is the usual one."""
_UP = 300
_MOST_BARS = 10
"""Points whose intervals are drawn; those of more would hide the points, and are told on hovering."""
_NEEDED = ("n", "clean_acc", "worst_case_acc")


@dataclass(frozen=True)
class _Dot:
    """A model as the figure shows it."""

    name: str
    loss: str
    tier: str
    comparable: bool
    """Whether it stands in the strongest tier: what a weaker attack has left is no robustness to compare with."""
    failed: bool
    clean: Point
    robust: Point


def clean_against_robust(board: Board, *, links: Mapping[str, str]) -> Figure | None:
    """Return clean against robust accuracy of the models of one board, with 95 % intervals; None without any.

    Names stand beside their points where there is room, those of the most robust models first.

    Args:
        board: rows without both accuracies are left out. Clean accuracy alone is not drawn.
        links: the page of each model that has one, to which its point leads.
    """
    if board.clean or not set(_NEEDED) <= set(board.frame):
        return None
    rows = board.frame.assign(**{key: pd.to_numeric(board.frame[key], errors="coerce") for key in _NEEDED})
    rows = rows.dropna(subset=list(_NEEDED)).sort_values("worst_case_acc", ascending=False, kind="stable")
    if rows.empty:
        return None
    dots = _dots(rows)
    bars = len(dots) <= _MOST_BARS
    ranges = [
        _range([dot.clean for dot in dots], bars=bars),
        _range([dot.robust for dot in dots], bars=bars, also=_certified(rows)),
    ]
    losses = [[i for i, dot in enumerate(dots) if dot.loss == loss] for loss in sorted({dot.loss for dot in dots})]
    labels = {width: _labels(dots, ranges, width=width, letters=letters) for width, letters in _ROOM}
    texts = {width: [_texts([placed[i] for i in places]) for places in losses] for width, placed in labels.items()}
    traces = [
        _trace(number, [dots[i] for i in places], links, bars=bars) | texts[_ROOM[1][0]][number]
        for number, places in enumerate(losses)
    ]
    layout = {
        "xaxis": percent_axis("Clean accuracy") | {"range": ranges[0]},
        "yaxis": percent_axis("Robust accuracy") | {"range": ranges[1]},
        "showlegend": True,
        "height": 440,
        "meta": {"labels": [{"least": width, "traces": found} for width, found in texts.items()]},
    }
    alt = (
        f"Clean against robust accuracy of {len(dots)} models on {board.title}; "
        f"the highest robust accuracy is {dots[0].robust.value:.2f} %, of {dots[0].name}."
    )
    return Figure(board.title, alt, traces + _brackets(rows), layout)


def _dots(rows: pd.DataFrame) -> list[_Dot]:
    losses = rows["loss"].fillna("").replace("", "trained elsewhere")
    tiers = rows["tier"].fillna("") if "tier" in rows else pd.Series("", index=rows.index)
    strongest = min(tiers, key=lambda tier: PLACES.get(tier, UNRANKED.place))
    failed = rows["checks"] == "FAIL" if "checks" in rows else pd.Series(data=False, index=rows.index)
    return [
        _Dot(
            *(str(name), str(loss), str(tier), tier == strongest, bool(fail)),
            *(Point.of_percentage(value, int(n)) for value in (clean, robust)),
        )
        for name, loss, tier, fail, n, clean, robust in zip(
            rows["model"], losses, tiers, failed, *(rows[key] for key in _NEEDED), strict=True
        )
    ]


def _certified(rows: pd.DataFrame) -> list[float]:
    return rows["certified_acc"].dropna().tolist() if "certified_acc" in rows else []


def _range(points: Sequence[Point], *, bars: bool, also: Sequence[float] = ()) -> list[float]:
    """Return the ends of an axis that has room for all points, for their intervals if drawn, and for names beside."""
    low = min([*(point.low if bars else point.value for point in points), *also])
    high = max(point.high if bars else point.value for point in points)
    room = max(0.08 * (high - low), 0.5)
    return [round(max(low - room, -2.0), 3), round(min(high + room, 103.0), 3)]


_Label = tuple[str, str]


def _labels(dots: Sequence[_Dot], ranges: Sequence[Sequence[float]], *, width: int, letters: int) -> list[_Label]:
    """Return the name of each point, or nothing where it has no room, and where it stands."""
    names = [cut(dot.name, letters) for dot in dots]
    (left, right), (bottom, top) = ranges
    shares = [((dot.clean.value - left) / (right - left), (dot.robust.value - bottom) / (top - bottom)) for dot in dots]
    places = place_labels(names, shares, width=width, height=_UP)
    return [(name, place) if place else ("", "top right") for name, place in zip(names, places, strict=True)]


def _texts(labels: Sequence[_Label]) -> dict[str, list[str]]:
    return {"text": [escape(name) for name, _ in labels], "textposition": [place for _, place in labels]}


def _trace(number: int, dots: Sequence[_Dot], links: Mapping[str, str], *, bars: bool) -> dict[str, Any]:
    """Return the points of one loss, the number of which gives them their look."""
    colour = COLOURS[number % len(COLOURS)]
    symbol = SYMBOLS[(number + number // len(COLOURS)) % len(SYMBOLS)]
    faint = "rgba({}, {}, {}, 0.4)".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))
    intervals = {
        "error_x": error_bars([dot.clean for dot in dots]) | {"color": faint},
        "error_y": error_bars([dot.robust for dot in dots]) | {"color": faint},
    }
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": escape(dots[0].loss),
        "x": [dot.clean.value for dot in dots],
        "y": [dot.robust.value for dot in dots],
        **(intervals if bars else {}),
        "textfont": {"size": 11},
        "customdata": [links.get(dot.name) for dot in dots],
        "hovertext": [
            f"<b>{escape(dot.name)}</b>{' (checks FAIL)' if dot.failed else ''}<br>"
            f"clean {interval_text(dot.clean)}<br>robust {interval_text(dot.robust)}<br>{escape(dot.tier or 'no rank')}"
            for dot in dots
        ],
        "hoverinfo": "text",
        "marker": {
            "color": colour,
            "size": 10,
            "symbol": [f"{symbol}-open" if dot.failed else symbol for dot in dots],
            "opacity": [1 if dot.comparable else 0.4 for dot in dots],
        },
    }


def _brackets(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a band for each model from its certified accuracy up to that under attack; nothing without certificates.

    Robust accuracy lies in it.
    """
    if "certified_acc" not in rows or (known := rows.dropna(subset=["certified_acc"])).empty:
        return []
    ends = list(zip(known["clean_acc"], known["certified_acc"], known["worst_case_acc"], strict=True))
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "certified to attacked",
            "x": [x for clean, _, _ in ends for x in (clean, clean, None)],
            "y": [y for _, low, high in ends for y in (low, high, None)],
            "line": {"color": "rgba(110, 110, 110, 0.3)", "width": 12},
            "hoverinfo": "skip",
        }
    ]
