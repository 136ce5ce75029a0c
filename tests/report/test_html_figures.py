"""Figures against plotly's own schema, and against the numbers that they show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from report_samples import HOSTILE, save_many

from robustbench_gkl.report import class_figures, content, curves, figures
from robustbench_gkl.report.boards import boards_of
from robustbench_gkl.report.figures import COLOURS, Figure
from robustbench_gkl.report.scatter import clean_against_robust
from robustbench_gkl.report.still import still
from robustbench_gkl.results import Record, ResultStore, leaderboard
from robustbench_gkl.results.statistics import wilson_interval

METRICS = pd.DataFrame(
    {
        "epoch": [1, 2],
        "loss": [2.5, float("nan")],
        "loss_robust": [1.5, 1.0],
        "train_clean_acc": [30.0, 40.0],
        "train_robust_acc": [20.0, 25.0],
        "val_clean_acc": [31.0, 41.0],
        "val_robust_acc": [21.0, 26.0],
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return save_many(tmp_path_factory.mktemp("many") / "results", seeds=2, eps=("4/255", "8/255"), n=100)


@pytest.fixture(scope="module")
def records(store: ResultStore) -> list[Record]:
    return list(store.records())


def all_figures(store: ResultStore, records: list[Record]) -> Iterator[Figure]:
    classes = content.per_class(store.verdicts(records[0]))
    for board in boards_of(leaderboard(store.folder)):
        drawn = clean_against_robust(board, links={})
        assert drawn is not None
        yield drawn
    for setting, lines in content.by_radius(records).items():
        yield figures.accuracy_against_eps(setting.attacks_label, lines)
    yield figures.who_fell_to_what("x", {record.model.name: content.falls(record) for record in records})
    yield figures.waterfall("x", content.falls(records[0]))
    yield class_figures.accuracy_per_class("x", classes)
    yield class_figures.classes_of_models("x", {"a": classes, "b": classes[2:]})
    for figure in (curves.accuracy_curves(METRICS), curves.loss_curves(METRICS)):
        assert figure is not None
        yield figure


def test_plotly_knows_every_property(store: ResultStore, records: list[Record]) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for figure in all_figures(store, records):
        spec = figure.spec()
        graph_objects.Figure(data=spec["data"], layout=spec["layout"])
        json.dumps(spec, allow_nan=False)
        assert figure.alt.endswith(".")


def test_names_are_shown_and_not_read_as_markup(records: list[Record]) -> None:
    falls = content.falls(records[0])
    figure = figures.who_fell_to_what("x", {HOSTILE: falls})
    assert HOSTILE not in json.dumps(figure.data)
    assert HOSTILE not in still(figure)
    assert HOSTILE[:10] in "".join(drawn_still(figure).itertext())
    assert figure.data[0]["y"] == ["&lt;script&gt;document.title='owned'&lt;/script&gt;"]


def test_the_scatter_shows_accuracies_with_their_intervals(store: ResultStore) -> None:
    frame = leaderboard(store.folder)
    boards = boards_of(frame)
    links = {"gkl-preact-resnet18-seed0": "there.html"}
    drawn = [clean_against_robust(board, links=links) for board in boards]
    assert [figure.label for figure in drawn if figure] == ["cifar10, linf 4/255", "cifar10, linf 8/255"]
    points: dict[str, Any] = {}
    assert drawn[1] is not None
    for trace in drawn[1].data:
        for i, said in enumerate(trace["hovertext"]):
            name = said.removeprefix("<b>").partition("</b>")[0]
            points[name] = {axis: trace[axis][i] for axis in ("x", "y", "customdata")} | {
                "low": trace["y"][i] - trace["error_y"]["arrayminus"][i],
                "high": trace["y"][i] + trace["error_y"]["array"][i],
                "symbol": trace["marker"]["symbol"][i],
            }
    rows = frame[frame["threat"] == "linf 8/255"].set_index("model")
    assert set(points) == set(rows.index)
    for name, point in points.items():
        row = rows.loc[[name]].iloc[0]
        low, high = wilson_interval(round(row["worst_case_acc"]), 100)
        assert (point["x"], point["y"]) == pytest.approx((row["clean_acc"], row["worst_case_acc"]))
        assert (point["low"], point["high"]) == pytest.approx((100 * low, 100 * high), abs=0.01)
        assert point["symbol"].endswith("-open") == (row["checks"] == "FAIL")
    assert points["gkl-preact-resnet18-seed0"]["customdata"] == "there.html"


def test_bars_fill_the_whole_and_the_waterfall_ends_at_what_stands(records: list[Record]) -> None:
    models = {record.model.name: content.falls(record) for record in records}
    bars = figures.who_fell_to_what("x", models)
    for i in range(len(models)):
        assert sum(trace["x"][i] for trace in bars.data) == pytest.approx(100, abs=0.01)
    (trace,) = figures.waterfall("x", content.falls(records[0])).data
    assert sum(trace["y"][:-1]) == pytest.approx(trace["y"][-1])
    assert trace["y"][-1] == pytest.approx(records[0].worst_case_acc)


def test_rows_without_numbers_and_metrics_without_columns_draw_nothing() -> None:
    frame = pd.DataFrame(
        {"model": ["p"], "loss": [None], "dataset": ["d"], "threat": ["t"], "n": [None], "clean_acc": [90.0],
         "worst_case_acc": [50.0]}
    )  # fmt: skip
    for rows, said in (
        (frame, None),
        (frame.assign(n=10), "trained elsewhere"),
        (frame.assign(n=10, threat="clean"), None),
    ):
        (board,) = boards_of(rows)
        figure = clean_against_robust(board, links={})
        assert (figure and figure.data[0]["name"]) == said
    assert curves.accuracy_curves(METRICS[["epoch", "loss"]]) is None
    assert curves.loss_curves(METRICS[["epoch", "val_clean_acc"]]) is None


SVG = "{http://www.w3.org/2000/svg}"


def drawn_still(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(still(figure).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_every_figure_has_a_still_one_that_stays_in_its_frame(store: ResultStore, records: list[Record]) -> None:
    for figure in all_figures(store, records):
        picture = drawn_still(figure)
        width, height = map(float, picture.attrib["viewBox"].split()[2:])
        boxes = picture.findall(f"{SVG}rect")
        for box in boxes:
            x, y, across, up = (float(box.attrib[key]) for key in ("x", "y", "width", "height"))
            assert 0 <= x <= x + across <= width + 0.1
            assert 0 <= y <= y + up <= height + 0.1
        points = sum(len(trace["x"]) for trace in figure.data if "markers" in trace.get("mode", ""))
        lines = [path for path in picture.findall(f"{SVG}path") if path.get("fill") == "none"]
        assert boxes or lines or len(picture.findall(f"{SVG}circle") + picture.findall(f"{SVG}polygon")) >= points > 0
        said = {text.text for text in picture.findall(f"{SVG}text")}
        assert {trace["name"] for trace in figure.data if figure.layout.get("showlegend")} <= said


def test_still_bars_are_as_long_as_their_shares(records: list[Record]) -> None:
    figure = figures.who_fell_to_what("x", {"a": content.falls(records[0])})
    shares = [trace["x"][0] for trace in figure.data]
    widths = [float(box.attrib["width"]) for box in drawn_still(figure).findall(f"{SVG}rect")]
    assert widths == pytest.approx([share * sum(widths) / 100 for share in shares], abs=0.2)


def test_a_still_point_stands_at_its_value(store: ResultStore) -> None:
    figure = clean_against_robust(boards_of(leaderboard(store.folder))[0], links={})
    assert figure is not None
    found = [
        (float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in drawn_still(figure).findall(f"{SVG}circle")
    ]
    trace = next(trace for trace in figure.data if trace["marker"]["symbol"][0].startswith("circle"))
    (one, other), (x, y) = found[:2], (trace["x"], trace["y"])
    left, right = figure.layout["xaxis"]["range"]
    assert x[0] != x[1]
    across = (one[0] - other[0]) / (x[0] - x[1])
    assert 600 < across * (right - left) < 760
    assert (one[1] - other[1]) * (y[0] - y[1]) <= 0  # up the page is down the scale


def test_no_value_is_drawn_where_the_loss_was_not_a_number() -> None:
    drawn = curves.loss_curves(METRICS)
    assert drawn is not None
    assert [trace["y"] for trace in drawn.data] == [[2.5, None], [1.5, 1.0]]


def test_what_a_damaged_file_of_metrics_holds_is_passed_over() -> None:
    rows = [("1", "inf", "30"), ("2", "1.5", "1e999"), ("", "9", "9"), ("x", "9", "9"), ("1e9", "-1e300", "40")]
    damaged = pd.DataFrame(rows, columns=["epoch", "loss", "val_clean_acc"]).assign(loss_robust="no number")
    drawn = [curves.loss_curves(damaged), curves.accuracy_curves(damaged)]
    expected = [[None, 1.5, None], [30.0, None, 40.0]]
    for figure, values in zip(drawn, expected, strict=True):
        assert figure is not None
        assert [(trace["x"], trace["y"]) for trace in figure.data] == [([1, 2, 1e9], values)]
        assert "dtick" not in figure.layout["xaxis"]  # a tick an epoch would never end
        assert len(drawn_still(figure)) > 5
    for nothing in (damaged[["loss", "val_clean_acc"]], damaged[["epoch", "loss_robust"]], damaged[:0], damaged[3:4]):
        assert curves.loss_curves(nothing) is curves.accuracy_curves(nothing) is None


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def style_colours() -> dict[str, tuple[str, str]]:
    import re

    from robustbench_gkl.report.assets import style

    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style())
    return {name: (light, dark) for name, light, dark in found}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme: int) -> None:
    named = {name: colours[theme] for name, colours in style_colours().items()}
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for back in ("page", "surface", "raised"):
        for text in ("text", "muted", "accent"):
            assert contrast(named[text], named[back]) >= 4.5, (text, back)
    for pill in ("pass", "warn", "fail"):
        assert contrast(named[pill], named[f"{pill}-back"]) >= 4.5
    for colour in COLOURS:
        assert contrast(colour, named["surface"]) >= 3
        assert contrast(colour, "#0b0d10") >= 4.5  # the figures inside the bars
