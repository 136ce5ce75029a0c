"""Leaderboards in a notebook. Imports no torch."""

from __future__ import annotations

from html import escape

import pandas as pd

from robustbench_gkl.results.board_tables import BoardRow, BoardSection, BoardTable, board_tables, heading

_NEEDED = frozenset({"rank", "model", "dataset", "n"})
"""Columns without which a data frame is no leaderboard any more."""
_NUMBERS = frozenset(
    {"rank", "n", "clean_acc", "worst_case_acc", "mean_corruption_acc"}
    | {"ci_low", "ci_high", "certified_low", "certified_high"}
)
"""Columns that boards compare and format, and that somebody may have made text of."""
_LEFT = ' style="text-align: left"'
_GREY = ' style="opacity: 0.6"'
_WHOLE = "<style>table.gklbench th, table.gklbench td {white-space: nowrap}</style>"
"""No name and no figure is broken; a notebook scrolls what is wide."""


class Leaderboard(pd.DataFrame):
    """A data frame that a notebook shows as a table for each board: best figures bold, rows without a rank grey.

    What is computed from one is one as well, and is shown as any other data frame once it has no boards.
    """

    @property
    def _constructor(self) -> type[Leaderboard]:
        return Leaderboard

    def _has_boards(self) -> bool:
        if not self.columns.is_unique or not _NEEDED.issubset(self.columns):
            return False
        numbers = (pd.api.types.is_numeric_dtype(self[name]) for name in _NUMBERS.intersection(self.columns))
        return all(numbers) and all(isinstance(name, str) for name in self["dataset"].dropna())

    def _repr_html_(self) -> str | None:
        """Return the tables, with as many rows as pandas may show (``display.max_rows``)."""
        if self.empty or not self._has_boards():
            return super()._repr_html_()  # type: ignore[no-any-return, misc]
        if not pd.get_option("display.notebook_repr_html"):
            return None
        most = pd.get_option("display.max_rows") or len(self)
        tables = [_table(table) for table in board_tables(self.head(most))]
        more = f"<p>{len(self) - most:,} more rows</p>" if len(self) > most else ""
        return f"<div>{_WHOLE}{''.join(tables)}{more}</div>"


def _table(table: BoardTable) -> str:
    title = f'<caption style="text-align: left"><b>{escape(f"{table.dataset}, {table.setting}")}</b></caption>'
    heads = "".join(f"<th{_side(table, name)}>{escape(heading(name))}</th>" for name in table.columns)
    rows = "".join(_section(section, table) for section in table.sections)
    note = f"<p{_GREY}>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<table class="dataframe gklbench">{title}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{note}'
    )


def _section(section: BoardSection, table: BoardTable) -> str:
    head = f'<tr><th colspan="{len(table.columns)}"{_LEFT}>{escape(section.name)}</th></tr>' if section.name else ""
    return head + "".join(_row(row, table) for row in section.rows)


def _row(row: BoardRow, table: BoardTable) -> str:
    def cell(name: str) -> str:
        text = escape(row.cells[name]) or ("–" if name in table.numeric else "")
        return f"<td{_side(table, name)}>{f'<b>{text}</b>' if name in row.best else text}</td>"

    return f"<tr{'' if row.ranked else _GREY}>{''.join(map(cell, table.columns))}</tr>"


def _side(table: BoardTable, name: str) -> str:
    return "" if name in table.numeric else _LEFT
