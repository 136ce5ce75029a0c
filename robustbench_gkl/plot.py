"""Figures in one call: those of the report, as plotly figures that notebooks show and ``write_html`` saves.

They need plotly: ``pip install 'gklbench[report]'``. Each function takes a results folder, records, or what
:func:`robustbench_gkl.evaluate` returns; a mapping gives its items names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustbench_gkl.core.errors import UserError, unknown
from robustbench_gkl.report.measured import records_of, rows_of, title_of
from robustbench_gkl.results import leaderboard
from robustbench_gkl.runs import Run, look_for

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from robustbench_gkl.report import figures
    from robustbench_gkl.report.measured import Results

__all__ = ["curve", "tradeoff", "waterfall"]


def tradeoff(what: Results | pd.DataFrame = "results", *, board: str | None = None) -> Figure:
    """Return robust against clean accuracy, in percent with 95 % intervals: a point for each model.

    Args:
        what: a results folder or its leaderboard, in which all records of a model count; or records or evaluations,
            each of which is a point.
        board: data set and threat such as ``"cifar10, linf 8/255"``; None for the board of most models.

    Raises:
        UserError: plotly is not installed; nothing to draw; no such board (the message lists them); two evaluations
            under one name.
    """
    import pandas as pd

    from robustbench_gkl.report.boards import boards_of
    from robustbench_gkl.report.scatter import clean_against_robust

    if isinstance(what, (str, Path)):
        frame = leaderboard(what)
    else:
        frame = what if isinstance(what, pd.DataFrame) else rows_of(records_of(what))
    drawn = (clean_against_robust(place, links={}) for place in boards_of(frame))
    return _drawn(_chosen([figure for figure in drawn if figure is not None], board))


def curve(
    what: Results | Run | pd.DataFrame | Sequence[Mapping[str, float]] = "results",
    *,
    of: Literal["accuracy", "loss"] = "accuracy",
    board: str | None = None,
    checkpoints_dir: str | Path = "checkpoints",
) -> Figure:
    """Return accuracy in percent against eps, or the curves of a training over its epochs.

    Args:
        what: a results folder, records or evaluations, where models were evaluated at several radii under the same
            attacks: accuracy against eps, with 95 % intervals. Or a run (its name, its folder, what
            :func:`robustbench_gkl.train` returns, or ``metrics.csv`` as a table): clean and PGD accuracy over the
            epochs.
        of: ``"loss"`` for the loss and its terms over the epochs.
        board: as the figure's title names it; None for the one of most models.
        checkpoints_dir: where runs are looked for by name.

    Raises:
        UserError: plotly is not installed; nothing to draw; neither a run nor a results folder of that name; metrics
            without epochs.
    """
    from robustbench_gkl.report import content, curves, figures

    if of not in ("accuracy", "loss"):
        raise UserError(f"of must be 'accuracy' or 'loss', got {of!r}")
    if (trained := _training(what, Path(checkpoints_dir))) is not None:
        name, metrics = trained
        drawn = (curves.loss_curves if of == "loss" else curves.accuracy_curves)(metrics)
        return _drawn(_chosen([] if drawn is None else [drawn], None), title=name)
    if of == "loss":
        raise UserError("of='loss' draws the curves of a training; give a run, such as its name")
    found = content.by_radius(records_of(what))  # type: ignore[arg-type]
    return _drawn(_chosen([figures.accuracy_against_eps(title_of(at), lines) for at, lines in found.items()], board))


def waterfall(what: Results = "results", *, model: str | None = None, board: str | None = None) -> Figure:
    """Return which share of the samples, in percent, fell to which stage: a waterfall of one model, or a bar for each.

    Args:
        what: a results folder, records, or evaluations.
        model: only the model of this name.
        board: as the figure's title names it; None for the one of most models.

    Raises:
        UserError: plotly is not installed; nothing to draw; no such model or board (the message lists them).
    """
    from robustbench_gkl.report import content, figures

    records = records_of(what)
    if model is not None:
        names = sorted({record.model.name for record in records})
        if model not in names:
            raise unknown("model", model, names)
        records = [record for record in records if record.model.name == model]
    drawn = []
    for at, found in content.by_setting(records).items():
        falls = {record.model.name: content.falls(record) for record in found}
        (name, only), *others = falls.items()
        if others:
            drawn.append(figures.who_fell_to_what(title_of(at), falls))
        else:
            drawn.append(figures.waterfall(f"{name}: {title_of(at)}", only))
    return _drawn(_chosen(drawn, board))


def _chosen(drawn: Sequence[figures.Figure], board: str | None) -> figures.Figure:
    """Return the figure of a board, or the first."""
    if not drawn:
        raise UserError("there is nothing to draw here; evaluate models, at several radii for a curve over eps")
    if board is None:
        return drawn[0]
    by_label = {figure.label: figure for figure in drawn}
    if board not in by_label:
        raise unknown("board", board, by_label, listing=f"choose from {'; '.join(map(repr, by_label))}")
    return by_label[board]


def _drawn(figure: figures.Figure, *, title: str | None = None) -> Figure:
    """Return a figure of the report as plotly's."""
    from robustbench_gkl.report.assets import require_extra
    from robustbench_gkl.report.figures import escape

    require_extra("figures", ["plotly"])
    from plotly.graph_objects import Figure

    shown = figure.label if title is None else title
    above, below = 50, 60 if figure.layout.get("showlegend") else 12  # title and legend, which pages have outside
    defaults: dict[str, Any] = {
        "template": "plotly_white",
        "title": {"text": escape(shown), "font": {"size": 15}},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "margin": {"l": 12, "r": 12, "t": above, "b": below},
        "meta": {"alt": figure.alt},
        "xaxis": {"automargin": True},
        "yaxis": {"automargin": True},
    }
    layout = defaults | {
        key: defaults.get(key, {}) | value if isinstance(value, dict) else value for key, value in figure.layout.items()
    }
    layout["height"] += above + below
    return Figure(data=figure.data, layout=layout)


def _training(what: object, checkpoints_dir: Path) -> tuple[str, pd.DataFrame] | None:
    """Return name and metrics of a run; None for what is no run.

    Raises:
        UserError: a name of neither a run nor a results folder; no metrics yet, or broken ones.
    """
    import pandas as pd

    if isinstance(what, pd.DataFrame):
        return "", _with_epochs(what)
    if isinstance(what, Sequence) and what and all(isinstance(row, Mapping) for row in what):
        run = getattr(what, "run", None)
        return ("" if run is None else run.name), _with_epochs(pd.DataFrame(list(what)))
    run = look_for(str(what), checkpoints_dir=checkpoints_dir) if isinstance(what, (str, Path)) else what
    if not isinstance(run, Run):
        return None
    if not run.exists():
        if Path(str(what)).is_dir():
            return None
        raise UserError(f"{str(what)!r} is neither a run in {checkpoints_dir} nor a results folder")
    return run.name, run.metrics()


def _with_epochs(metrics: pd.DataFrame) -> pd.DataFrame:
    if "epoch" not in metrics:
        has = ", ".join(map(str, metrics)) or "no columns"
        raise UserError(f"the metrics of a training have a column epoch, as metrics.csv has; got {has}")
    return metrics
