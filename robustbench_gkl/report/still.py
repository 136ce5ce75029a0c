"""Figures as SVG: what a page shows on paper, without scripts, and until plotly.js is there.

Colours of text and lines are the page's (``--text``, ``--muted``, ``--line``).
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from robustbench_gkl.report.axes import Axis, Value
from robustbench_gkl.report.figures import Figure
from robustbench_gkl.report.names import cut

WIDTH = 760
"""Units across, of about a pixel each on paper."""
_LETTER, _LINE, _RIGHT = 6.4, 18, 22
_MOST_LETTERS = 40
_PALE = 0.35
_SHAPES: Mapping[str, Sequence[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    "triangle-up": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
    "triangle-down": [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
    "hexagon": [(-1, 0), (-0.5, -0.9), (0.5, -0.9), (1, 0), (0.5, 0.9), (-0.5, 0.9)],
    "cross": [
        *((-0.4, -1), (0.4, -1), (0.4, -0.4), (1, -0.4), (1, 0.4), (0.4, 0.4)),
        *((0.4, 1), (-0.4, 1), (-0.4, 0.4), (-1, 0.4), (-1, -0.4), (-0.4, -0.4)),
    ],
    "star": [
        (radius * math.sin(corner * math.pi / 5), -radius * math.cos(corner * math.pi / 5))
        for corner, radius in enumerate((1.4, 0.6) * 5)
    ],
}
"""The corners of markers, in halves of their size; others are circles."""

Trace = Mapping[str, Any]


def still(figure: Figure) -> str:
    """Return a figure as an SVG element; its sentence stands beside it, so that it is hidden from screen readers."""
    drawing = _Drawing(figure)
    parts = "".join([*drawing.frame(), *drawing.marks(), *drawing.legend()])
    return (
        f'<svg viewBox="0 0 {WIDTH} {drawing.height:g}" width="{WIDTH}" height="{drawing.height:g}" '
        f'aria-hidden="true" focusable="false">{parts}</svg>'
    )


class _Drawing:
    """One figure, and where its parts stand."""

    def __init__(self, figure: Figure) -> None:
        self.data, layout = figure.data, figure.layout
        self.stacked = layout.get("barmode") == "stack"
        self.named = [trace for trace in self.data if trace.get("name")] if layout.get("showlegend") else []
        x, y = (Axis.of(layout.get(f"{axis}axis", {}), _values(self.data, axis)) for axis in "xy")
        left = 22 + _longest(y) + 18 * bool(y.title)
        slot = (WIDTH - left - _RIGHT) / max(1, len(x.ticks))
        longest = _longest(x)
        self.slanted = bool(x.categories) and longest > slot - 4
        below = 24 + (0.5 * longest if self.slanted else 0) + 18 * bool(x.title)
        self.rows = _legend_rows([_plain(trace["name"]) for trace in self.named])
        self.bottom = layout["height"] - below
        self.height = layout["height"] + _LINE * len(self.rows) + 6
        self.x, self.y = x.between(left, WIDTH - _RIGHT), y.between(self.bottom, 18)

    def frame(self) -> Iterator[str]:
        """Yield the lines at the ticks, their labels and the titles."""
        x, y = self.x, self.y
        for value, text in () if x.categories else x.ticks:
            yield _line(x.at(value), y.start, x.at(value), y.end)
            yield _text(x.at(value), self.bottom + 16, text)
        for value, text in y.ticks:
            if not y.categories:
                yield _line(x.start, y.at(value), x.end, y.at(value))
            yield _text(x.start - 7, y.at(value) + 4, text, anchor="end")
        for value, text in x.ticks if x.categories else ():
            turn = f' transform="rotate(-30 {x.at(value):.1f} {self.bottom + 14})"' if self.slanted else ""
            yield _text(x.at(value), self.bottom + 14, text, anchor="end" if self.slanted else "middle", more=turn)
        if x.title:
            yield _text((x.start + x.end) / 2, self.height - _LINE * len(self.rows) - 12, x.title, kind="muted")
        if y.title:
            middle = (y.start + y.end) / 2
            yield _text(12, middle, y.title, kind="muted", more=f' transform="rotate(-90 12 {middle:.1f})"')

    def marks(self) -> Iterator[str]:
        """Yield what is drawn of each trace."""
        bars = [trace for trace in self.data if trace["type"] == "bar"]
        base: dict[Value, float] = {}
        for trace in self.data:
            if trace["type"] == "bar":
                yield from self._bars(trace, bars.index(trace), len(bars), base)
            elif trace["type"] == "waterfall":
                yield from self._waterfall(trace)
            elif trace["type"] == "heatmap":
                yield from self._heatmap(trace)
            else:
                yield from self._scatter(trace)

    def _bars(self, trace: Trace, place: int, many: int, base: dict[Value, float]) -> Iterator[str]:
        lying = trace.get("orientation") == "h"
        along, up = (self.y, self.x) if lying else (self.x, self.y)
        names, values = (trace["y"], trace["x"]) if lying else (trace["x"], trace["y"])
        thick = along.step * 0.72 / (1 if self.stacked else many)
        texts = trace.get("text", [""] * len(values))
        for i, (name, value, text) in enumerate(zip(names, values, texts, strict=True)):
            start = base.get(name, 0.0) if self.stacked else 0.0
            base[name] = start + value
            middle = along.at(name) + (0 if self.stacked else (place - (many - 1) / 2) * thick)
            ends = sorted((up.at(start), up.at(start + value)))
            box = (ends[0], middle - thick / 2, ends[1] - ends[0], thick)
            yield _box(*(box if lying else (box[1], box[0], box[3], box[2])), trace["marker"])
            if text:
                yield _text((ends[0] + ends[1]) / 2, middle + 4, text, kind="on")
            if error := trace.get("error_y"):
                yield self._interval(middle, value, i, error)

    def _interval(self, x: float, value: float, i: int, error: Mapping[str, Any]) -> str:
        ends = self.y.at(value + error["array"][i]), self.y.at(value - error["arrayminus"][i])
        return _line(x, ends[0], x, ends[1], stroke=error.get("color", "var(--muted)"))

    def _waterfall(self, trace: Trace) -> Iterator[str]:
        level, thick = 0.0, self.x.step * 0.72
        kinds = zip(trace["x"], trace["y"], trace["measure"], trace["text"], strict=True)
        for name, value, measure, text in kinds:
            start, end = (level, level + value) if measure == "relative" else (0.0, value)
            look = trace["decreasing" if measure == "relative" else "totals"]["marker"]
            tops = sorted((self.y.at(start), self.y.at(end)))
            yield _box(self.x.at(name) - thick / 2, tops[0], thick, tops[1] - tops[0], look)
            yield _text(self.x.at(name), (tops[1] + 14) if value < 0 else (tops[0] - 5), text)
            level = end

    def _heatmap(self, trace: Trace) -> Iterator[str]:
        wide, high = self.x.step - 2, self.y.step - 2
        for name, row in zip(trace["y"], trace["z"], strict=True):
            for label, value in zip(trace["x"], row, strict=True):
                if value is None:
                    continue
                look = {"color": _shade(trace["colorscale"], value / trace["zmax"])}
                yield _box(self.x.at(label) - wide / 2, self.y.at(name) - high / 2, wide, high, look)
                if trace["texttemplate"]:
                    yield _text(self.x.at(label), self.y.at(name) + 4, f"{value:.0f}", kind="on")

    def _scatter(self, trace: Trace) -> Iterator[str]:
        runs = _runs(trace["x"], trace["y"])
        look = trace.get("line", {})
        if "lines" in trace["mode"]:
            for run in runs:
                yield self._path([point for _, *point in run], trace, look)
        marker = trace.get("marker", {})
        for i, x, y in (point for run in runs for point in run):
            if error := trace.get("error_x"):
                ends = self.x.at(x - error["arrayminus"][i]), self.x.at(x + error["array"][i])
                yield _line(ends[0], self.y.at(y), ends[1], self.y.at(y), stroke=error.get("color", "var(--muted)"))
            if error := trace.get("error_y"):
                yield self._interval(self.x.at(x), y, i, {**look, **error})
            if "markers" in trace["mode"]:
                yield self._marker(marker, i, self.x.at(x), self.y.at(y), colour=look.get("color", ""))
            if "text" in trace["mode"] and trace["text"][i]:
                yield self._name(self.x.at(x), self.y.at(y), trace["text"][i], trace["textposition"][i])

    @staticmethod
    def _marker(marker: Mapping[str, Any], i: int, x: float, y: float, *, colour: str) -> str:
        symbol, opacity = marker.get("symbol", "circle"), marker.get("opacity", 1)
        return _mark(
            symbol if isinstance(symbol, str) else symbol[i],
            x,
            y,
            marker["size"],
            marker.get("color", colour),
            opacity[i] if isinstance(opacity, list) else opacity,
        )

    def _name(self, x: float, y: float, text: str, place: str) -> str:
        vertical, side = place.split()
        right = side == "right"
        return _text(
            x + (6 if right else -6), y + (-6 if vertical == "top" else 14), text, anchor="start" if right else "end"
        )

    def _path(self, points: Sequence[Sequence[float]], trace: Trace, look: Mapping[str, Any]) -> str:
        steps = " L".join(f"{self.x.at(x):.1f} {self.y.at(y):.1f}" for x, y in points)
        if trace.get("fill") == "toself":
            return f'<path d="M{steps} Z" fill="{look["color"]}" opacity="{_PALE}"/>'
        dash = {"dash": "6 4", "dot": "2 3", "dashdot": "8 3 2 3"}.get(look.get("dash", ""), "")
        return (
            f'<path d="M{steps}" fill="none" stroke="{look["color"]}" stroke-width="{look["width"]}"'
            + (f' stroke-dasharray="{dash}"' if dash else "")
            + "/>"
        )

    def legend(self) -> Iterator[str]:
        """Yield the names of the traces, in rows below the picture."""
        traces = iter(self.named)
        y = self.height - _LINE * len(self.rows)
        for row in self.rows:
            for x, name in row:
                trace = next(traces)
                marker = trace.get("marker", {})
                colour = marker.get("color") or trace["line"]["color"]
                symbol = marker.get("symbol", "square")
                # A trace of one kind of points may hold hollow ones.
                kind = symbol if isinstance(symbol, str) else symbol[0].removesuffix("-open")
                yield _mark(kind, x + 5, y + 5, 10, colour)
                yield _text(x + 15, y + 9, name, anchor="start")
            y += _LINE


def _legend_rows(names: Sequence[str]) -> list[list[tuple[float, str]]]:
    """Return the names in rows, each with its place across."""
    rows: list[list[tuple[float, str]]] = []
    x = float(WIDTH)
    for name in names:
        wide = 34 + _LETTER * len(name)
        if x + wide > WIDTH:
            rows.append([])
            x = 14.0
        rows[-1].append((x, name))
        x += wide
    return rows


def _longest(axis: Axis) -> float:
    """Return the width of the longest label of an axis."""
    return max((_LETTER * min(_MOST_LETTERS, len(_plain(text))) for _, text in axis.ticks), default=0.0)


def _values(data: Sequence[Trace], axis: str) -> list[Value]:
    return [value for trace in data for value in trace[axis] if value is not None]


def _runs(xs: Sequence[float | None], ys: Sequence[float | None]) -> list[list[tuple[int, float, float]]]:
    """Return the points in runs: a place without x ends one, a value that was not measured is passed over."""
    runs: list[list[tuple[int, float, float]]] = [[]]
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if x is None:
            runs.append([])
        elif y is not None:
            runs[-1].append((i, x, y))
    return [run for run in runs if run]


def _shade(scale: Sequence[tuple[float, str]], share: float) -> str:
    """Return a colour between those of a scale."""
    for (low, first), (high, second) in pairwise(scale):
        if share <= high:
            part = (share - low) / (high - low)
            pairs = zip(_parts(first), _parts(second), strict=True)
            return "#" + "".join(f"{round(one + part * (other - one)):02x}" for one, other in pairs)
    return scale[-1][1]


def _parts(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _plain(text: object) -> str:
    return html.unescape(str(text))


def _text(x: float, y: float, text: object, *, anchor: str = "middle", kind: str = "", more: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    shown = html.escape(cut(_plain(text), _MOST_LETTERS))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}{more}>{shown}</text>'


def _mark(symbol: str, x: float, y: float, size: float, colour: str, opacity: float = 1) -> str:
    """Return a marker as plotly draws it; ``-open`` ones are hollow."""
    look = f'fill="{"none" if symbol.endswith("-open") else colour}" stroke="{colour}"'
    look += f' opacity="{opacity}"' if opacity < 1 else ""
    corners = _SHAPES.get(symbol.removesuffix("-open"))
    if corners is None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size / 2:g}" {look}/>'
    points = " ".join(f"{x + size / 2 * right:.1f},{y + size / 2 * down:.1f}" for right, down in corners)
    return f'<polygon points="{points}" {look}/>'


def _line(x1: float, y1: float, x2: float, y2: float, *, stroke: str = "var(--line)") -> str:
    return f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="{stroke}"/>'


def _box(x: float, y: float, width: float, height: float, look: Mapping[str, Any]) -> str:
    pale = f' opacity="{look["opacity"]}"' if "opacity" in look else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
        f'fill="{look["color"]}"{pale}/>'
    )
