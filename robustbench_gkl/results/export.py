"""Leaderboards as files: CSV, Markdown, JSON, LaTeX, and RobustBench's model_info files."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_gkl.core.exact import PUBLISHED_NORMS
from robustbench_gkl.core.files import write_wanted
from robustbench_gkl.results.leaderboard import AUTOATTACK_COLUMNS
from robustbench_gkl.results.tiers import AUTOATTACK


def save_table(table: pd.DataFrame, path: Path, *, form: str) -> None:
    """Write a leaderboard as ``csv``, ``markdown``, ``json`` or ``latex``.

    Raises:
        UserError: the file cannot be written.
    """
    write_wanted(path, FORMS[form](table))


_IN_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in r"\|<"})
"""Signs that would end a cell or begin markup."""


def markdown(table: pd.DataFrame) -> str:
    """Return a leaderboard as a Markdown table."""
    cells = table.astype(object).where(table.notna(), "").map(_markdown_cell)
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes]
    lines = [
        "| " + " | ".join(map(_markdown_cell, table.columns)) + " |",
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
        *("| " + " | ".join(row) + " |" for row in cells.itertuples(index=False)),
    ]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else " ".join(str(cell).splitlines()).translate(_IN_MARKDOWN)


def latex(table: pd.DataFrame) -> str:
    """Return a leaderboard as a booktabs table."""
    styler = table.style.format(precision=2, na_rep="--", escape="latex")
    styler = styler.format_index(escape="latex", axis="columns").hide(axis="index")
    columns = "".join("r" if pd.api.types.is_numeric_dtype(dtype) else "l" for dtype in table.dtypes)
    return styler.to_latex(hrules=True, column_format=columns)


def _json(table: pd.DataFrame) -> str:
    return table.to_json(orient="records", indent=1) + "\n"


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False)


FORMS: dict[str, Callable[[pd.DataFrame], str]] = {"csv": _csv, "markdown": markdown, "json": _json, "latex": latex}


def save_model_info(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write one RobustBench ``model_info`` file for each row that has an AutoAttack accuracy, and return their paths.

    The accuracy is that after ``autoattack``, the standard version, alone or after others; our own engine in float32
    goes before other ways to run it. Models that have not completed it have no file. The layout is
    ``DATASET/NORM/MODEL.json``, with radius and samples in the name for a model's second row; the keys are
    RobustBench's, accuracies are text as theirs are. What a record cannot know (authors, venue, link) is left empty.

    Raises:
        UserError: a file cannot be written.
    """
    written: list[Path] = []
    for row in table.to_dict("records"):
        accuracy = _autoattack(row, table.attrs.get(AUTOATTACK_COLUMNS, ()))
        if accuracy is None:
            continue
        norm, eps = row["threat"].split()
        info = {
            "link": "",
            "name": row["model"],
            "authors": "",
            "additional_data": None,
            "number_forward_passes": 1,
            "dataset": row["dataset"],
            "venue": "",
            "architecture": row["arch"],
            "eps": eps,
            "clean_acc": f"{row['clean_acc']:.2f}",
            "reported": f"{accuracy:.2f}",
            "autoattack_acc": f"{accuracy:.2f}",
            "footnote": f"{row['n']} samples, gklbench",
            "unreliable": row["checks"] == "FAIL",
        }
        path = folder / _file_name(row["dataset"]) / PUBLISHED_NORMS[norm] / f"{_file_name(row['model'])}.json"
        if path in written:  # the same model at another radius, on other samples, or an older one of the name
            path = path.with_stem(f"{path.stem}_eps{_file_name(eps)}_n{row['n']}")
        for number in itertools.count(2):
            if path not in written:
                break
            path = path.with_stem(f"{path.stem}_{number}")
        write_wanted(path, json.dumps(info, indent=2) + "\n")
        written.append(path)
    return written


def _autoattack(row: Mapping[Hashable, Any], columns: Sequence[str]) -> float | None:
    """Return the accuracy in the first of ``columns`` that a row of the tier has, if it is of that tier."""
    if row.get("tier") != AUTOATTACK.name:
        return None
    return next((float(row[name]) for name in columns if name in row and not pd.isna(row[name])), None)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "unnamed"
