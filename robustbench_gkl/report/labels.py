"""Where the names of a scatter's points stand, so that none covers another name or point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

LETTER, LINE, MARK = 6.6, 15.0, 14.0
"""Width of a letter, height of a line and size of a mark, in pixels, on the wide side."""
_AWAY = 4.0
"""Pixels between a point's centre and the corner of its name, per axis."""
PLACES = tuple(f"{vertical} {side}" for side, vertical in product(("right", "left"), ("top", "bottom")))
"""Where a name may stand, as plotly calls it, in the order of preference."""


@dataclass(frozen=True)
class _Span:
    """The extent of a box on one axis: pixels to each side of a point at a share of the axis."""

    at: float
    before: float
    after: float

    def apart(self, other: _Span, least: float) -> bool:
        """Return whether the two have no pixel in common on any axis of ``least`` pixels or more."""
        # What lies before stays before as the axis grows: the points move apart, the boxes keep their sizes.
        return any(
            first.at <= second.at and first.at * least + first.after <= second.at * least - second.before
            for first, second in ((self, other), (other, self))
        )

    def inside(self, least: float) -> bool:
        """Return whether it lies on every axis of ``least`` pixels or more."""
        return self.at * least >= self.before and (1 - self.at) * least >= self.after


_Box = tuple[_Span, _Span]


def place_labels(
    names: Sequence[str], points: Sequence[tuple[float, float]], *, width: float, height: float
) -> list[str | None]:
    """Return for each point the place of its name, or None where there is no room for it.

    Names come first to first: those of the points that matter most should stand at the front. What is placed stays
    clear on every larger plot too.

    Args:
        names: as they are shown.
        points: across and up, as shares of the plot in [0, 1].
        width, height: the smallest plot, in pixels.
    """
    marks = [(_Span(x, MARK / 2, MARK / 2), _Span(y, MARK / 2, MARK / 2)) for x, y in points]
    placed: list[_Box] = []
    places: list[str | None] = []
    for i, (name, point) in enumerate(zip(names, points, strict=True)):
        taken = [*placed, *marks[:i], *marks[i + 1 :]]
        for place, box in _boxes(name, point):
            if (
                box[0].inside(width)
                and box[1].inside(height)
                and all(_clear(box, other, width, height) for other in taken)
            ):
                placed.append(box)
                places.append(place)
                break
        else:
            places.append(None)
    return places


def _boxes(name: str, point: tuple[float, float]) -> Iterator[tuple[str, _Box]]:
    long, short = _AWAY + LETTER * len(name), -_AWAY
    for place in PLACES:
        vertical, side = place.split()
        across = (short, long) if side == "right" else (long, short)
        up = (short, _AWAY + LINE) if vertical == "top" else (_AWAY + LINE, short)
        yield place, (_Span(point[0], *across), _Span(point[1], *up))


def _clear(box: _Box, other: _Box, width: float, height: float) -> bool:
    return box[0].apart(other[0], width) or box[1].apart(other[1], height)
