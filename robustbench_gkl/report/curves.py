"""Training curves as plotly.js reads them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from robustbench_gkl.report.figures import COLOURS, Figure, escape, percent_axis

_ACCURACIES = {
    "train_clean_acc": ("clean, training", COLOURS[0], "dot"),
    "train_robust_acc": ("PGD, training", COLOURS[1], "dot"),
    "val_clean_acc": ("clean, validation", COLOURS[0], "solid"),
    "val_robust_acc": ("PGD, validation", COLOURS[1], "solid"),
}
_TICKS = 12
"""Epochs, up to which each has a tick."""
_LARGEST = 1e100
"""Of what is drawn: an axis cannot hold numbers beyond it."""


def accuracy_curves(metrics: pd.DataFrame) -> Figure | None:
    """Return clean and PGD accuracy on training and validation images over the epochs; None where there is none."""
    metrics = _measured(metrics)
    lines = {key: style for key, style in _ACCURACIES.items() if key in metrics}
    if not lines:
        return None
    traces = [_line(metrics, key, name, colour, dash) for key, (name, colour, dash) in lines.items()]
    last = ", ".join(f"{name} {metrics[key].dropna().iloc[-1]:.1f} %" for key, (name, _, _) in lines.items())
    layout = _epochs(metrics) | {"yaxis": percent_axis("Accuracy") | {"range": [0, 102]}}
    return Figure("accuracy", f"Accuracy over {len(metrics)} epochs; at the end {last}.", traces, layout)


def loss_curves(metrics: pd.DataFrame) -> Figure | None:
    """Return the loss and its terms over the epochs; None where there is none."""
    metrics = _measured(metrics)
    keys = [key for key in map(str, metrics) if key == "loss" or key.startswith("loss_")]
    if not keys:
        return None
    traces = [
        _line(metrics, key, "total" if key == "loss" else key.removeprefix("loss_"), COLOURS[i % len(COLOURS)], dash)
        for i, (key, dash) in enumerate(zip(keys, ["solid", *["dash"] * len(keys)], strict=False))
    ]
    layout = _epochs(metrics) | {"yaxis": {"title": {"text": "Loss"}, "rangemode": "tozero"}}
    return Figure("loss", f"Loss terms over {len(metrics)} epochs.", traces, layout)


def _measured(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return what can be drawn of a file that anybody may have edited: finite numbers, and columns that have some."""
    numbers: pd.DataFrame = metrics.apply(pd.to_numeric, errors="coerce").astype(float)
    numbers = numbers.where(numbers.abs() < _LARGEST)
    rows = numbers.dropna(subset=["epoch"]) if "epoch" in numbers else numbers.iloc[:0]
    return rows.dropna(axis="columns", how="all")


def _line(metrics: pd.DataFrame, key: str, name: str, colour: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(metrics) <= 30 else "lines",
        "name": escape(name),
        "x": metrics["epoch"].tolist(),
        "y": [None if value != value else round(value, 6) for value in metrics[key].tolist()],
        "connectgaps": True,  # not every epoch is measured
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"size": 5},
    }


def _epochs(metrics: pd.DataFrame) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": "Epoch"}}
    if metrics["epoch"].max() - metrics["epoch"].min() < _TICKS:
        axis["dtick"] = 1
    return {"xaxis": axis, "showlegend": True, "hovermode": "x unified", "height": 340}
