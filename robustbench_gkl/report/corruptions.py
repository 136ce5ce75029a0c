"""Accuracy on corrupted images on a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from robustbench_gkl.results.corruptions import CorruptionRecord


def corruption_table(record: CorruptionRecord) -> Table:
    """Return one row a corruption: accuracy in percent at each severity, and their mean; the last row is the mean."""
    table = Table(header_style="bold", row_styles=("", "dim"), box=None, pad_edge=False)
    table.add_column("corruption", no_wrap=True)
    for header in ("1", "2", "3", "4", "5", "mean"):
        table.add_column(header, justify="right")
    for name in record.correct:
        accuracies = [record.accuracy(name, severity) for severity in range(1, 6)]
        label = name if name in record.counted else f"({name})"
        table.add_row(Text(label), *(f"{value:.2f}" for value in (*accuracies, sum(accuracies) / 5)))
    means = [record.severity_acc(severity) for severity in range(1, 6)]
    table.add_section()
    table.add_row("mean", *(f"{value:.2f}" for value in (*means, record.mean_corruption_acc)), style="bold")
    return table
