"""Figures as plotly.js reads them: plain data, without colours of the page, which the page's script adds.

Text in a figure may hold markup, so whatever comes from a record goes through ``escape``.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle
from typing import Any

from robustbench_gkl.core.exact import format_fraction
from robustbench_gkl.report.content import Fall, Point, Radii

COLOURS = ("#3b7dd8", "#d1701c", "#2f9461", "#9066c9", "#d4504f", "#268b99", "#c25a94", "#8a7a2e")
"""Each has a contrast of at least 3 with both backgrounds, the light and the dark one."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot")
WRONG, STANDING, CLEAN = "#7b828c", "#2f9461", "#7b828c"
CERTIFIED = "certified"
"""What the part of the samples that stand and are certified is called."""


@dataclass(frozen=True)
class Figure:
    """A figure with its name in the menu and a sentence for those who do not see it."""

    label: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]

    def spec(self) -> dict[str, Any]:
        """Return what the page's script needs."""
        return {"label": self.label, "alt": self.alt, "data": self.data, "layout": self.layout}


def escape(text: object) -> str:
    """Return text that plotly.js shows as it is."""
    return html.escape(str(text), quote=False)


def percent_axis(title: str) -> dict[str, Any]:
    """Return an axis of percentages."""
    return {"title": {"text": title}, "ticksuffix": " %", "rangemode": "tozero"}


def error_bars(points: Sequence[Point]) -> dict[str, Any]:
    """Return the intervals of points as error bars."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [round(point.high - point.value, 3) for point in points],
        "arrayminus": [round(point.value - point.low, 3) for point in points],
        "thickness": 1,
        "width": 3,
    }


def interval_text(point: Point) -> str:
    """Return an accuracy and its interval as they are shown on hovering."""
    return f"{point.value:.2f} % ({point.low:.1f} – {point.high:.1f})"


def accuracy_against_eps(label: str, curves: Sequence[Radii]) -> Figure:
    """Return accuracy against the radius of each model, with 95 % intervals."""
    traces = []
    for i, curve in enumerate(curves):
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": escape(curve.model),
                "x": [float(eps) for eps in curve.eps],
                "y": [point.value for point in curve.points],
                "error_y": error_bars(curve.points),
                "hovertext": [
                    f"<b>{escape(curve.model)}</b><br>eps {_radius(eps)}<br>{interval_text(point)}"
                    for eps, point in zip(curve.eps, curve.points, strict=True)
                ],
                "hoverinfo": "text",
                "line": {
                    "color": COLOURS[i % len(COLOURS)],
                    "dash": DASHES[i // len(COLOURS) % len(DASHES)],
                    "width": 2,
                },
                "marker": {"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 7},
            }
        )
        traces += _bands(curve, COLOURS[i % len(COLOURS)])
    ticks = sorted({eps for curve in curves for eps in curve.eps})
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "eps"}},
        "yaxis": percent_axis("Accuracy") | {"range": [0, 102]},
        "showlegend": True,
        "height": 380,
    }
    if len(ticks) <= 12:
        layout["xaxis"] |= {"tickvals": [float(eps) for eps in ticks], "ticktext": [_radius(eps) for eps in ticks]}
    ends = f"{_radius(ticks[0])} to {_radius(ticks[-1])}"
    return Figure(label, f"Accuracy against eps from {ends} of {len(curves)} models: {label}.", traces, layout)


def _bands(curve: Radii, colour: str) -> list[dict[str, Any]]:
    """Return the band between certified accuracy and that under attack; nothing where there are no certificates."""
    if not curve.certified:
        return []
    eps = [float(value) for value in curve.eps]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape(f"{curve.model}, certified to attacked"),
            "x": eps + eps[::-1],
            "y": [point.value for point in curve.points] + [point.value for point in curve.certified[::-1]],
            "fill": "toself",
            "line": {"color": colour, "width": 0},
            "opacity": 0.3,
            "hoverinfo": "skip",
        }
    ]


def _radius(eps: Fraction) -> str:
    return format_fraction(eps)


def who_fell_to_what(label: str, models: Mapping[str, Sequence[Fall]]) -> Figure:
    """Return one bar per model, the best one on top, divided by what its samples fell to.

    Of those that stand, the certified ones are a part of their own, if there are any.
    """
    names = list(models)
    parts = list(dict.fromkeys(fall.name for falls in models.values() for fall in falls[1:-1]))
    colours = dict(zip(parts, cycle(COLOURS[:2] + COLOURS[3:]), strict=False))
    ends = [(next(iter(models.values()))[i].name, colour) for i, colour in ((0, WRONG), (-1, STANDING))]
    certified = [(CERTIFIED, STANDING)] if any(falls[-1].proved for falls in models.values()) else []
    split = {model: _certified_apart(falls) for model, falls in models.items()}
    traces = []
    for name, colour in (*certified, ends[1], *reversed(colours.items()), ends[0]):
        counts = [next((fall.count for fall in split[model] if fall.name == name), 0) for model in names]
        totals = [sum(fall.count for fall in split[model]) for model in names]
        shares = [100 * count / total for count, total in zip(counts, totals, strict=True)]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escape(name),
                "y": [escape(model) for model in names],
                "x": [round(share, 3) for share in shares],
                "text": [f"{share:.1f}" if share >= 4 else "" for share in shares],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "insidetextfont": {"color": "#0b0d10"},
                "hovertext": [
                    f"<b>{escape(model)}</b><br>{escape(name)}: {count:,} ({share:.2f} %)"
                    for model, count, share in zip(names, counts, shares, strict=True)
                ],
                "hoverinfo": "text",
                "marker": {"color": colour, "pattern": {"shape": "/" if name == CERTIFIED else ""}},
            }
        )
    standing = ", ".join(f"{model} {falls[-1].count}" for model, falls in list(models.items())[:5])
    layout = {
        "barmode": "stack",
        "uniformtext": {"minsize": 9, "mode": "hide"},
        "bargap": 0.28,
        "xaxis": percent_axis("Share of samples") | {"range": [0, 100]},
        "yaxis": {"autorange": "reversed", "type": "category", "automargin": True},
        "legend": {"traceorder": "normal"},
        "showlegend": True,
        "height": 100 + 30 * len(names),
    }
    alt = f"What the samples of {len(names)} models fell to, {label}. Samples that stand: {standing}."
    return Figure(label, alt, traces, layout)


def _certified_apart(falls: Sequence[Fall]) -> list[Fall]:
    """Return the same parts with those that stand divided into certified and others."""
    *before, last = falls
    return [*before, Fall(last.name, last.count - last.proved), Fall(CERTIFIED, last.proved)]


def waterfall(label: str, falls: Sequence[Fall]) -> Figure:
    """Return how the accuracy of one model falls from attack to attack."""
    n = sum(fall.count for fall in falls)
    steps = [("all samples", "absolute", n), *((fall.name, "relative", -fall.count) for fall in falls[:-1])]
    steps.append((falls[-1].name, "total", falls[-1].count))
    shares = [100 * count / n for _, _, count in steps]
    drawn = list(zip(shares, steps, strict=True))
    trace = {
        "type": "waterfall",
        "x": [escape(name) for name, _, _ in steps],
        "y": [round(share, 3) for share in shares],
        "measure": [measure for _, measure, _ in steps],
        "text": [_change(share) if kind == "relative" else f"{share:.1f}" for share, (_, kind, _) in drawn],
        "hovertext": [f"{escape(name)}: {abs(count):,} of {n:,}" for name, _, count in steps],
        "hoverinfo": "text",
        "textposition": "outside",
        "cliponaxis": False,
        "connector": {"line": {"width": 1, "color": WRONG}},
        "increasing": {"marker": {"color": COLOURS[0]}},
        "decreasing": {"marker": {"color": COLOURS[4]}},
        "totals": {"marker": {"color": STANDING}},
    }
    told = ", ".join(f"{fall.name} {fall.count}" for fall in falls)
    layout = {
        "uniformtext": {"minsize": 9, "mode": "hide"},
        "xaxis": {"type": "category"},
        "yaxis": percent_axis("Share of samples") | {"range": [0, 112], "tickvals": [0, 20, 40, 60, 80, 100]},
        "showlegend": False,
        "height": 340,
    }
    return Figure(label, f"Of {n} samples: {told}.", [trace], layout)


def _change(share: float) -> str:
    return f"{share:.1f}".replace("-", "−") if share else "0"
