"""Static pages that work from disk without a network: the report, and the leaderboard as one file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import writable_folder, write_atomically, write_wanted
from robustbench_gkl.report import assets, tables
from robustbench_gkl.report.boards import boards_of
from robustbench_gkl.report.model_pages import ModelPages
from robustbench_gkl.report.pages import page_templates
from robustbench_gkl.report.site import Site
from robustbench_gkl.results import ResultStore, leaderboard

GENERATOR = '<meta name="generator" content="gklbench'
"""By which we know our own pages, and replace no others."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    index: Path
    models: int
    records: int


def write_report(out: Path, *, results_dir: Path, checkpoints_dir: Path, strict: bool = False) -> Report:
    """Write the report over all records: ``index.html`` with the largest board, ``boards/``, ``models/``, ``assets/``.

    The same records give the same bytes.

    Args:
        out: the folder, which is made if need be; pages of an earlier report in it are replaced.
        results_dir: the folder with ``records/``, ``verdicts/`` and, where images were saved, ``adversarial/``.
        checkpoints_dir: where runs are kept, for training curves.
        strict: refuse broken records instead of passing them by.

    Raises:
        UserError: the extra is not installed; no records; ``out`` holds other files of these names or cannot be
            written to.
    """
    assets.require_extra()
    store = ResultStore(results_dir, strict=strict)
    records = sorted(store.records(), key=lambda record: record.created, reverse=True)
    if not records:
        raise UserError(f"there are no records in {results_dir}; evaluate a model first or give --results-dir")
    frame = leaderboard(results_dir)
    writable_folder(out, what="the report's folder")
    _refuse_others(out, {"index.html": ""})
    site = Site(store, records, checkpoints_dir, frame)
    models = ModelPages(site)
    pages = {f"models/{site.slugs[name]}.html": models.page(name) for name in site.models}
    pages |= {site.places[board.key]: site.board_page(board) for board in site.boards}
    files = {
        "assets/style.css": assets.style(),
        "assets/report.js": assets.script(),
        "assets/tables.js": assets.tables_script(),
        "assets/plotly.min.js": assets.plotly_script(),
        **pages,
    }
    _refuse_others(out, files)
    _remove_former(out, keep=pages)
    for path, text in files.items():
        (out / path).parent.mkdir(exist_ok=True)
        write_atomically(out / path, text)
    return Report(out / "index.html", len(site.models), len(records))


def leaderboard_page(frame: pd.DataFrame, *, whole: bool = True) -> str:
    """Return a leaderboard as one HTML file with everything it needs inside, board after board.

    Args:
        frame: what ``results.leaderboard`` returns.
        whole: no rows of a board are left out, so that it can be summed up.

    Raises:
        UserError: the extra is not installed.
    """
    assets.require_extra()
    boards = boards_of(frame)
    return (
        page_templates()
        .get_template("leaderboard.html.jinja")
        .render(
            boards=[(board, f"#board-{number}") for number, board in enumerate(boards, 1)],
            tables=[tables.table_view(board.own_columns) for board in boards],
            whole=whole,
            inline={"style": assets.style(), "scripts": [assets.tables_script(), assets.script()]},
            root="",
        )
    )


def save_leaderboard_page(frame: pd.DataFrame, path: Path, *, whole: bool = True) -> None:
    """Write a leaderboard as one HTML file, see :func:`leaderboard_page`.

    Raises:
        UserError: the extra is not installed, or the file cannot be written.
    """
    write_wanted(path, leaderboard_page(frame, whole=whole))


def _remove_former(out: Path, *, keep: Collection[str]) -> None:
    """Remove our pages of boards and models that are no more."""
    for folder in ("boards", "models"):
        for old in (out / folder).glob("*.html"):
            if f"{folder}/{old.name}" not in keep and _is_ours(old):
                old.unlink()


def _refuse_others(out: Path, files: Mapping[str, str]) -> None:
    """Check that nothing is replaced but pages of ours and what an earlier report has beside them.

    Raises:
        UserError: a file of another's, or a file where a folder belongs.
    """
    replaces_report = _is_ours(out / "index.html")
    for name, text in files.items():
        path = out / name
        if not path.exists():
            path, ours = path.parent, path.parent.is_dir() or not path.parent.exists()
        elif path.suffix == ".html":
            ours = _is_ours(path)
        else:
            ours = path.is_file() and (replaces_report or path.read_bytes() == text.encode())
        if not ours:
            raise UserError(f"{path} is not of a report of gklbench and is not replaced; give another --out")


def _is_ours(page: Path) -> bool:
    return page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:2000]
