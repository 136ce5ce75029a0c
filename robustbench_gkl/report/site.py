"""The report over one results folder: what all its pages know, and the pages of the boards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_gkl.report import class_figures, content, figures, tables
from robustbench_gkl.report.boards import Board, boards_of
from robustbench_gkl.report.content import ClassAccuracy
from robustbench_gkl.report.figures import Figure
from robustbench_gkl.report.names import short_datasets
from robustbench_gkl.report.pages import page_names, page_templates
from robustbench_gkl.report.scatter import clean_against_robust
from robustbench_gkl.results import Record, ResultStore
from robustbench_gkl.results.board import Models


class Site:
    """What the pages of a report know.

    Attributes:
        records: all, the newest first.
        frame: the leaderboard over them.
        boards: of the leaderboard, that of most models first, which is on the index.
        models: the records of each name.
        known: what the records know of the models.
        classes: the accuracies per class of each record by its id, or why they cannot be had.
        slugs: the file name of each model's page.
        short: how each data set is called in little room.
    """

    def __init__(
        self, store: ResultStore, records: Sequence[Record], checkpoints_dir: Path, frame: pd.DataFrame
    ) -> None:
        self.store, self.records, self.checkpoints_dir, self.frame = store, records, checkpoints_dir, frame
        self.classes = content.read_classes(records, store)
        self.models: dict[str, list[Record]] = {}
        for record in records:
            self.models.setdefault(record.model.name, []).append(record)
        self.slugs = page_names(list(self.models))
        self.known = Models.of(sorted(records, key=lambda record: record.created))
        self.short = short_datasets(record.data.dataset for record in records)
        self.boards = boards_of(frame)
        others = page_names([board.key for board in self.boards[1:]])
        self.places = {board.key: f"boards/{others[board.key]}.html" for board in self.boards[1:]}
        self.places |= {board.key: "index.html" for board in self.boards[:1]}
        self._env = page_templates()
        self._shown = self._current()

    def render(self, template: str, *, root: str, **values: Any) -> str:
        """Return a page; ``root`` leads from its folder to that of the report."""
        return self._env.get_template(template).render(
            root=root, inline=None, newest=self.records[0].created[:10], **values
        )

    def _current(self) -> list[Record]:
        """Return the records of models that no newer one has superseded, each under the one name of its row."""
        names = {sha256: self.known.names[sha256][0] for sha256 in self.known.current}
        twice = {name for name, many in Counter(names.values()).items() if many > 1}
        found = []
        for record in self.records:
            model = record.model
            if model.model_sha256 in names:
                name = names[model.model_sha256]
                # Two files of weights of one run are two models.
                name += f" ({model.weights or model.model_sha256[:8]})" if name in twice else ""
                found.append(record.model_copy(update={"model": model.model_copy(update={"name": name})}))
        return found

    def board_page(self, board: Board) -> str:
        """Return the page of a board; that of the largest is the index."""
        place = self.places[board.key]
        root = "" if "/" not in place else "../"
        links = {name: f"{root}models/{slug}.html" for name, slug in self.slugs.items()}
        here = [record for record in self._shown if board.holds(record)]
        return self.render(
            "board.html.jinja",
            root=root,
            board=board,
            boards=[(other, root + self.places[other.key]) for other in self.boards],
            facts=self._facts() if place == "index.html" else [],
            table=tables.table_view(board.own_columns, links=list(map(links.get, board.frame["model"]))),
            **self._figures(board, here, links),
        )

    def _facts(self) -> list[tuple[str, int]]:
        return [
            ("Models", len(self.models)),
            ("Boards", len(self.boards)),
            ("Records", len(self.records)),
            ("Data sets", len({record.data.dataset for record in self.records})),
            ("Rows that fail their checks", sum(self.frame["checks"] == "FAIL")),
        ]

    def _figures(self, board: Board, here: Sequence[Record], links: Mapping[str, str]) -> dict[str, list[Figure]]:
        """Return the figures of a board, each of comparable evaluations alone; of clean accuracy those per class."""
        settings = content.by_setting(here)
        drawn: dict[str, list[Figure]] = {"scatter": [], "radii": [], "falls": []}
        if not board.clean:
            scatter = clean_against_robust(board, links=links)
            near = [record for record in self._shown if board.same_images(record)]
            norm = board.at.threat.partition(" ")[0]
            drawn["scatter"] = [] if scatter is None else [scatter]
            drawn["radii"] = [
                figures.accuracy_against_eps(at.attacks_label, lines)
                for at, lines in content.by_radius(near).items()
                if at.norm == norm
            ]
            drawn["falls"] = [
                figures.who_fell_to_what(
                    at.attacks_label, {record.model.name: content.falls(record) for record in found}
                )
                for at, found in settings.items()
            ]
        drawn["classes"] = [
            class_figures.classes_of_models(at.attacks_label, known)
            for at, found in settings.items()
            if (known := self._known_classes(found))
        ]
        return drawn

    def _known_classes(self, records: Sequence[Record]) -> Mapping[str, Sequence[ClassAccuracy]]:
        found = {record.model.name: self.classes[record.id] for record in records}
        return {name: classes for name, classes in found.items() if not isinstance(classes, str)}
