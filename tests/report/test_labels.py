"""Names beside points: none covers another name or point, however wide the plot."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_gkl.report.labels import LETTER, LINE, MARK, place_labels

Box = tuple[float, float, float, float]


def box_of(name: str, at: tuple[float, float], place: str) -> Box:
    """Return left, right, bottom and top of a name whose nearest corner is 4 pixels from its point."""
    vertical, side = place.split()
    across = (4.0, 4 + LETTER * len(name)) if side == "right" else (-4 - LETTER * len(name), -4.0)
    up = (4.0, 4 + LINE) if vertical == "top" else (-4 - LINE, -4.0)
    return (at[0] + across[0], at[0] + across[1], at[1] + up[0], at[1] + up[1])


def overlap(one: Box, other: Box) -> bool:
    return all(one[low] < other[high] - 1e-6 and other[low] < one[high] - 1e-6 for low, high in ((0, 1), (2, 3)))


@pytest.mark.parametrize("count", [3, 12, 60])
@pytest.mark.parametrize("seed", range(3))
def test_no_two_overlap_on_any_wider_plot(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = [(float(x), float(y)) for x, y in np.round(rng.uniform(0.1, 0.9, (count, 2)), 2)]
    names = ["x" * int(length) for length in rng.integers(4, 25, count)]
    places = place_labels(names, shares, width=300, height=200)
    assert any(places)
    for width, height in ((300, 200), (301, 260), (420, 200), (777, 350), (1500, 900)):
        points = [(x * width, y * height) for x, y in shares]
        labels = [box_of(*found) for found in zip(names, points, places, strict=True) if found[2]]  # type: ignore[arg-type]
        marks = [(x - MARK / 2, x + MARK / 2, y - MARK / 2, y + MARK / 2) for x, y in points]
        for i, label in enumerate(labels):
            assert 0 <= label[0] <= label[1] <= width
            assert 0 <= label[2] <= label[3] <= height
            assert not any(overlap(label, other) for other in labels[:i])
        own = [mark for mark, place in zip(marks, places, strict=True) if place]
        for label, itself in zip(labels, own, strict=True):
            assert not any(overlap(label, mark) for mark in marks if mark != itself)


def test_all_names_stand_where_there_is_room() -> None:
    assert place_labels(["a", "b"], [(0.2, 0.2), (0.8, 0.8)], width=300, height=200) == ["top right", "top right"]


def test_a_name_turns_away_from_its_neighbour_and_from_the_edge() -> None:
    assert place_labels(["long-name"], [(0.95, 0.5)], width=300, height=200) == ["top left"]
    first, second = place_labels(["model-a", "model-b"], [(0.5, 0.5), (0.5, 0.5)], width=300, height=200)
    assert (first, second) == ("top right", "bottom right") or {first, second} == {None}
