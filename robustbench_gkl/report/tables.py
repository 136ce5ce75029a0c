"""The cells of an HTML table, made from a data frame, which decides the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import parse_fraction
from robustbench_gkl.results.board_tables import cell_text
from robustbench_gkl.results.published_rows import PUBLISHED
from robustbench_gkl.results.tiers import CLEAN

ColumnKind = Literal["number", "text", "verdict", "heading", "accuracy"]

SHOWN_FIRST = ("rank", "model", "worst_case_acc", "clean_acc", "threat", "interval", "checks")
"""What is wanted first; a phone has room for the first five. The other columns follow in the frame's order."""
ON_PAPER = frozenset({*SHOWN_FIRST, "dataset", "n", "loss", "tier", "certified_acc", "seeds", "mean_corruption_acc"})
"""The columns that a sheet has room for."""

HEADINGS: Mapping[str, tuple[str, str]] = {
    "rank": ("Rank", "1 + the number of models of the tier on the board that are significantly better"),
    "model": ("Model", "The run or imported checkpoint"),
    "clean_acc": ("Clean %", "Accuracy without an attack"),
    "worst_case_acc": ("Robust %", "Samples that nothing known has broken, pointwise over all evaluations"),
    "interval": ("95 % interval", "Wilson interval of the robust accuracy"),
    "checks": ("Checks", "The worst verdict of the checks that the rank rests on"),
    "loss": ("Loss", "The training loss"),
    "arch": ("Architecture", ""),
    "dataset": ("Data set", ""),
    "threat": ("Threat", "Norm and radius in the [0, 1] image scale"),
    "n": ("n", "Evaluated samples"),
    "params": ("Parameters", ""),
    "eval_seconds": ("Seconds", "Wall time of the evaluations"),
    "tier": ("Tier", "The strongest attack that the model has completed; ranks are counted within a tier"),
    "teacher": ("Teacher", "The model that a distilled model was taught by"),
    "split": ("Split", ""),
    "samples": ("Samples", "How the hash of pixels and labels begins"),
    "weights": ("Weights", "Which file of the run"),
    "engine": ("Engine", "Whose code ran the attacks of the tier"),
    "attack_seeds": ("Attack seeds", "Seeds under which the attack of the tier was completed"),
    "seeds": ("Seeds", "Trainings that differ in nothing but the seed"),
    "spread": ("Spread", "Standard deviation of the robust accuracy over the trainings, in points"),
    "lacks": ("No rank for want of", ""),
    "certified_acc": (
        "Certified %",
        "Samples proved, up to floating point, that no image in their balls fools the model",
    ),
    "certified_low": ("Certified from", "Lower end of the 95 % Wilson interval of the certified accuracy"),
    "certified_high": ("Certified to", "Its upper end"),
}
"""Heading and explanation of the columns we know; others are headed by their names."""

_VERDICTS = frozenset({"PASS", "WARN", "FAIL"})
_MOST_CHOICES = 40
_RANKED_TOGETHER = ("dataset", "split", "samples", "threat", "n", "tier")
"""The columns in which rows must agree to be ranked against each other."""


@dataclass(frozen=True)
class TableColumn:
    """A column and, where a menu can filter it, the values to choose from."""

    key: str
    label: str
    title: str
    numeric: bool
    heads_row: bool
    on_paper: bool
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableCell:
    """The text of a cell, and the value that it is sorted by."""

    text: str
    kind: ColumnKind
    order: str | float
    link: str | None = None
    full: str = ""
    """The whole text where ``text`` is short for it."""
    bounds: tuple[float, float, float] | None = None
    """Low end, value and high end in percent, for the drawn interval of a robust accuracy."""


@dataclass(frozen=True)
class Row:
    """The cells of one row."""

    cells: tuple[TableCell, ...]
    ranked: bool
    """Whether it has a rank, or comes from elsewhere; others are shown in grey."""
    starts_group: bool
    """Whether its ranks are not comparable with those of the row above."""


@dataclass(frozen=True)
class TableView:
    """A table as the template needs it."""

    columns: tuple[TableColumn, ...]
    rows: tuple[Row, ...]
    short: Mapping[str, str]
    """What is shown for long values."""


def table_view(
    frame: pd.DataFrame,
    *,
    links: Sequence[str | None] = (),
    heading: str = "model",
    short: Mapping[str, str] | None = None,
) -> TableView:
    """Return a leaderboard as columns and cells.

    Args:
        frame: what ``results.leaderboard`` returns, whatever columns that has.
        links: for each row the page that its heading leads to, if any; nothing for no links at all.
        heading: the column whose cells head their rows.
        short: how data sets with long names are shown.
    """
    short = short or {}
    frame = _with_interval(frame)
    without_attack = _is_without_attack(frame)
    if without_attack:
        frame = frame.drop(columns="clean_acc")
    first = ["rank", heading, *SHOWN_FIRST]
    ends = ("ci_low", "ci_high") if "interval" in frame else ()
    order = dict.fromkeys([*(key for key in first if key in frame), *map(str, frame)])
    columns = tuple(_column(key, frame[key], heads_row=key == heading) for key in order if key not in ends)
    if without_attack:
        label, title = HEADINGS["clean_acc"]
        columns = tuple(
            replace(column, label=label, title=title) if column.key == "worst_case_acc" else column
            for column in columns
        )
    rows = []
    before: dict[str, object] | None = None
    for record, link in zip(frame.to_dict("records"), links or [None] * len(frame), strict=True):
        values = {str(key): value for key, value in record.items()}
        cells = tuple(_cell(column, values, link, short) for column in columns)
        published = values.get("checks") == PUBLISHED  # between rows that are ranked together
        apart = heading == "model" and before is not None and not published and _apart(before, values)
        ranked = published or not _missing(values.get("rank", 0))
        rows.append(Row(cells, ranked, apart))
        before = before if published else values
    return TableView(columns, tuple(rows), short)


def _is_without_attack(frame: pd.DataFrame) -> bool:
    """Return whether nothing was attacked, so that the robust accuracy is the clean one."""
    if frame.empty or not {"threat", "clean_acc", "worst_case_acc"} <= set(frame):
        return False
    return bool(((frame["threat"] == CLEAN.name) & (frame["clean_acc"] == frame["worst_case_acc"])).all())


def _with_interval(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with both ends of the interval in one column of text."""
    if "ci_low" not in frame or "ci_high" not in frame:
        return frame
    low, high = (pd.to_numeric(frame[key], errors="coerce") for key in ("ci_low", "ci_high"))
    texts = [f"{a:.1f} – {b:.1f}" if a == a and b == b else None for a, b in zip(low, high, strict=True)]
    return frame.assign(interval=pd.Series(texts, index=frame.index, dtype=object))


def _column(key: str, values: pd.Series, *, heads_row: bool) -> TableColumn:
    label, title = HEADINGS.get(key, (key.replace("_", " "), ""))
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    numeric = is_number or key == "interval"
    return TableColumn(
        key, label, title, numeric, heads_row, key in ON_PAPER, () if numeric or key == "model" else _choices(values)
    )


def _choices(values: pd.Series) -> tuple[str, ...]:
    """Return what a menu may offer: few values, each of which several rows share."""
    distinct = sorted({str(value) for value in values.dropna()} - {""})
    return tuple(distinct) if 2 <= len(distinct) <= min(_MOST_CHOICES, max(2, len(values) // 2)) else ()


def _apart(before: Mapping[str, object], values: Mapping[str, object]) -> bool:
    """Return whether neighbours are ranked apart: another board or tier, or, without tiers, ranks that begin again."""
    if any(_text(before.get(key)) != _text(values.get(key)) for key in _RANKED_TOGETHER):
        return True
    if "tier" in values:
        return False
    rank, above = values.get("rank"), before.get("rank")
    if _missing(rank):
        return False
    return _missing(above) or float(str(rank)) < float(str(above))


def _text(value: object) -> str:
    return "" if _missing(value) else str(value)


def _missing(value: object) -> bool:
    return value is None or bool(pd.isna(value))  # type: ignore[call-overload]


def _cell(column: TableColumn, values: Mapping[str, object], link: str | None, short: Mapping[str, str]) -> TableCell:
    value = values[column.key]
    if _missing(value) or value == "":
        return TableCell("–", "number" if column.numeric else "text", -1.0 if column.numeric else "")
    if column.key == "interval":
        return TableCell(str(value), "number", float(str(values["ci_low"])))
    if column.numeric:
        number = float(str(value))
        bounds = _bounds(values, number) if column.key == "worst_case_acc" else None
        return TableCell(cell_text(column.key, value), "accuracy" if bounds else "number", number, bounds=bounds)
    text = str(value)
    order = threat_order(text) if column.key == "threat" else text.casefold()
    if column.heads_row:
        return TableCell(text, "heading", order, link=link)
    shown = short.get(text, text) if column.key == "dataset" else text
    return TableCell(shown, "verdict" if text in _VERDICTS else "text", order, full=text if shown != text else "")


def threat_order(threat: str) -> str:
    """Return what ``"linf 8/255"`` is sorted by: the norm, then the size of the radius."""
    norm, _, eps = threat.rpartition(" ")
    try:
        return f"{norm} {float(parse_fraction(eps)):014.8f}"
    except UserError:
        return threat


def _bounds(values: Mapping[str, object], accuracy: float) -> tuple[float, float, float] | None:
    low, high = values.get("ci_low"), values.get("ci_high")
    return None if _missing(low) or _missing(high) else (float(str(low)), accuracy, float(str(high)))


def settings_rows(values: Mapping[str, object], *, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as pairs of a dotted key and its value, without what is None or empty."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += settings_rows(value, prefix=f"{prefix}{key}.")
        elif value is not None:
            rows.append((f"{prefix}{key}", _plain(value)))
    return rows


def _plain(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
