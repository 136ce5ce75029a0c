"""Figures of accuracy per class, as plotly.js reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustbench_gkl.report.content import ClassAccuracy
from robustbench_gkl.report.figures import CLEAN, COLOURS, Figure, error_bars, escape, interval_text, percent_axis


def accuracy_per_class(label: str, classes: Sequence[ClassAccuracy]) -> Figure:
    """Return clean and robust accuracy of each class, with 95 % intervals on the latter."""
    names = [f"{item.label}" for item in classes]
    kinds = (
        ("clean", [item.clean for item in classes], {"color": CLEAN, "opacity": 0.45}),
        ("robust", [item.robust for item in classes], {"color": COLOURS[0]}),
    )
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": names,
            "y": [round(point.value, 3) for point in points],
            "hovertext": [
                f"class {item.label} (n = {item.n:,})<br>{name} {interval_text(point)}"
                for item, point in zip(classes, points, strict=True)
            ],
            "hoverinfo": "text",
            "marker": marker,
            **({"error_y": error_bars(points)} if name == "robust" else {}),
        }
        for name, points, marker in kinds
    ]
    worst = sorted(classes, key=lambda item: item.robust.value)[:3]
    told = ", ".join(f"class {item.label} with {item.robust.value:.1f} %" for item in worst)
    layout = {
        "barmode": "group",
        "xaxis": {"type": "category", "title": {"text": "Class"}},
        "yaxis": percent_axis("Accuracy") | {"range": [0, 102]},
        "showlegend": True,
        "height": 340,
    }
    return Figure(label, f"Accuracy per class; the least robust are {told}.", traces, layout)


def classes_of_models(label: str, models: Mapping[str, Sequence[ClassAccuracy]]) -> Figure:
    """Return the robust accuracy of each class of each model as a heat map."""
    labels = sorted({item.label for classes in models.values() for item in classes})
    values = [{item.label: item.robust.value for item in classes} for classes in models.values()]
    few = len(labels) <= 12
    trace = {
        "type": "heatmap",
        "x": [str(label) for label in labels],
        "y": [escape(model) for model in models],
        "z": [[_rounded(row.get(label)) for label in labels] for row in values],
        "texttemplate": "%{z:.0f}" if few else "",
        "textfont": {"color": "#0b0d10"},
        "hovertemplate": "<b>%{y}</b><br>class %{x}: %{z:.1f} %<extra></extra>",
        "colorscale": [[0, "#d0746a"], [0.5, "#e6c98a"], [1, "#5fb389"]],
        "zmin": 0,
        "zmax": 100,
        "xgap": 2,
        "ygap": 2,
        "showscale": not few,
        "colorbar": {"ticksuffix": " %", "thickness": 10, "outlinewidth": 0},
    }
    layout = {
        "xaxis": {"type": "category", "title": {"text": "Class"}, "showgrid": False},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True, "showgrid": False},
        "height": 140 + 28 * len(models),
    }
    alt = f"Robust accuracy of {len(models)} models on each of {len(labels)} classes, {label}."
    return Figure(label, alt, [trace], layout)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
