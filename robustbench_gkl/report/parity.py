"""Our attacks beside the published ones on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from robustbench_gkl.evaluation import Evaluation
    from robustbench_gkl.evaluation.parity import ParityComparison


def print_parity(comparison: ParityComparison, console: Console) -> None:
    """Print one comparison: a table of stages, and what follows from it."""
    console.print(_table(comparison))
    line = f"{comparison.label}: same verdict on {comparison.agreement:.2f} % of the samples"
    if comparison.own_agreement is not None:
        line += f" (reference with another seed: {comparison.own_agreement:.2f} %)"
    console.print(line, markup=False)
    bare = comparison.bare.of(comparison.native)
    console.print(
        f"{comparison.speed_up:.2f} times as fast; {comparison.over_bare:.2f} times the bare cost of its model calls "
        f"({bare:.1f} s)",
        markup=False,
    )
    ours, theirs = comparison.processor_seconds
    console.print(f"processor time {ours:.1f} s against {theirs:.1f} s: {theirs / max(ours, 1e-9):.2f} times")


def _table(comparison: ParityComparison) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("attack")
    for name in ("engine", "robust %", "seconds", "forwards", "backwards"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    pairs = [("native", comparison.native), ("reference", comparison.reference)]
    if comparison.second is not None:
        pairs.append(("reference'", comparison.second))
    for engine, evaluation in pairs:
        for cells in _rows(evaluation):
            table.add_row(cells[0], engine, *cells[1:])
    return table


def _rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    standing = round(evaluation.clean_acc * evaluation.n / 100)
    rows: list[tuple[str, ...]] = []
    for stage in evaluation.attacks[0].stages:
        standing -= stage.broken
        accuracy = f"{100 * standing / evaluation.n:.2f}"
        rows.append((stage.name, accuracy, f"{stage.seconds:.1f}", f"{stage.forwards:,}", f"{stage.backwards:,}"))
    return rows
