"""The axes of still figures: from values to pixels, and where ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Value = float | str


@dataclass(frozen=True)
class Axis:
    """An axis, from ``start`` to ``end`` in pixels.

    Attributes:
        low, high: the values at both ends; places of categories are 0, 1, ..., and the ends half a place beyond.
        categories: the names along the axis; empty for numbers.
        ticks: values and their labels.
        title: below the axis or beside it.
    """

    low: float
    high: float
    categories: tuple[str, ...]
    ticks: tuple[tuple[Value, str], ...]
    title: str
    start: float = 0.0
    end: float = 1.0

    @classmethod
    def of(cls, layout: Mapping[str, Any], values: Sequence[Value]) -> Axis:
        """Return the axis that a layout describes for values that are drawn along it."""
        title = layout.get("title", {}).get("text", "")
        if layout.get("type") == "category" or any(isinstance(value, str) for value in values):
            names = tuple(dict.fromkeys(map(str, values)))
            low, high = -0.5, len(names) - 0.5
            if layout.get("autorange") == "reversed":
                low, high = high, low
            return cls(low, high, names, tuple((name, name) for name in names), title)
        low, high = _ends(layout, [float(value) for value in values])
        return cls(low, high, (), _ticks(layout, low, high), title)

    def between(self, start: float, end: float) -> Axis:
        """Return the axis between two pixels."""
        return replace(self, start=start, end=end)

    def at(self, value: Value) -> float:
        """Return the pixel of a value, or of the middle of a category."""
        number = float(self.categories.index(str(value)) if self.categories else value)
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def step(self) -> float:
        """Pixels that a category has."""
        return abs(self.end - self.start) / max(1, len(self.categories))


def _ends(layout: Mapping[str, Any], values: Sequence[float]) -> tuple[float, float]:
    if "range" in layout:
        low, high = layout["range"]
        return float(low), float(high)
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or 0.5
    bottom = 0.0 if layout.get("rangemode") == "tozero" and low >= 0 else low - room
    return bottom, high + room


def _ticks(layout: Mapping[str, Any], low: float, high: float) -> tuple[tuple[float, str], ...]:
    suffix = layout.get("ticksuffix", "")
    if "ticktext" in layout:
        return tuple(zip(layout["tickvals"], layout["ticktext"], strict=True))
    if "tickvals" in layout:
        return tuple((value, f"{value:g}{suffix}") for value in layout["tickvals"])
    step = float(layout.get("dtick", _round_step((high - low) / 6)))
    return tuple((value, f"{value:g}{suffix}") for value in _multiples(step, low, high))


def _round_step(least: float) -> float:
    size = 10.0 ** math.floor(math.log10(least))
    return next(factor * size for factor in (1, 2, 5, 10) if factor * size >= least * (1 - 1e-9))


def _multiples(step: float, low: float, high: float) -> Iterable[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return (round(number * step, 10) for number in range(first, last + 1))
