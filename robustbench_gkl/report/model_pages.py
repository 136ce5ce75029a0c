"""The page of one model: its rows on the boards, its recipe, training curves and records."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.report import class_figures, content, curves, figures, reproduce, tables
from robustbench_gkl.report.content import Point, Setting
from robustbench_gkl.report.figures import Figure
from robustbench_gkl.report.gallery import Exhibit, read_gallery
from robustbench_gkl.report.site import Site
from robustbench_gkl.report.tables import TableView
from robustbench_gkl.results import Record


@dataclass(frozen=True)
class RecordView:
    """A record as its model's page shows it."""

    record: Record
    robust: Point
    attacks: str
    waterfall: list[Figure]
    classes: list[Figure]
    classes_note: str
    protocol: list[tuple[str, list[tuple[str, str]]]]
    command: reproduce.Command | None
    exhibits: list[Exhibit]
    exhibits_note: str


class ModelPages:
    """The pages of the models of a report."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def page(self, name: str) -> str:
        """Return the page of one model."""
        site = self.site
        records = site.models[name]
        current = [record for record in records if name in self._names(record.model.model_sha256)]
        main = content.headline(current or records)
        metrics = content.read_metrics(main, site.checkpoints_dir)
        drawn = [] if isinstance(metrics, str) else [curves.accuracy_curves(metrics), curves.loss_curves(metrics)]
        config = main.model.train_config
        return site.render(
            "model.html.jinja",
            root="../",
            name=name,
            main=main,
            robust=Point.of_percentage(self._best_known(name, main), main.data.n),
            weights=sorted({record.model.weights_sha256 for record in records}),
            table=self._table(name),
            short=site.short,
            recipe=None if config is None else tables.settings_rows(config),
            train_command=reproduce.train_command(main),
            curves=[figure for figure in drawn if figure is not None],
            curves_note=metrics if isinstance(metrics, str) else "",
            radii=[
                figures.accuracy_against_eps(self._label(at), lines) for at, lines in content.by_radius(records).items()
            ],
            views=[
                self._record_view(record) for record in (main, *(record for record in records if record is not main))
            ],
        )

    def _best_known(self, name: str, main: Record) -> float:
        """Return the robust accuracy of a model where ``main`` was made, as its row on the board has it."""
        rows = self._rows_of(name)
        where = (rows["dataset"] == main.data.dataset) & (rows["threat"] == str(main.threat))
        known = rows.loc[where & (rows["n"] == main.data.n), "worst_case_acc"].dropna().tolist()
        return min(known, default=main.worst_case_acc)

    def _table(self, name: str) -> TableView:
        """Return the rows of a model, each leading to its board."""
        site, rows = self.site, self._rows_of(name)
        rows = rows.loc[:, rows.notna().any() | (rows.columns == "rank")]
        places = {row: f"../{site.places[board.key]}" for board in site.boards for row in board.frame.index}
        return tables.table_view(rows, links=[places[row] for row in rows.index], heading="threat", short=site.short)

    def _rows_of(self, name: str) -> pd.DataFrame:
        """Return the leaderboard's rows of one model, under whatever name they are, smaller radii first."""
        listed = [names[0] for names in map(self._names, self.site.known.names) if name in names]
        rows = self.site.frame[self.site.frame["model"].isin(listed)].drop(columns="model")
        place = rows["dataset"] + " " + rows["threat"].map(tables.threat_order)
        return rows.loc[place.sort_values(kind="stable").index]

    def _label(self, at: Setting) -> str:
        """Return a setting over radii as a menu names it."""
        return f"{self.site.short[at.dataset]}, {at.norm}, {at.attacks_label}, n = {at.n:,}"

    def _names(self, model_sha256: str) -> list[str]:
        """Return the names of a model that no newer one has."""
        return self.site.known.names[model_sha256] if model_sha256 in self.site.known.current else []

    def _record_view(self, record: Record) -> RecordView:
        classes = self.site.classes[record.id]
        exhibits = self._exhibits(record)
        return RecordView(
            record=record,
            robust=Point.of_percentage(record.worst_case_acc, record.data.n),
            attacks=" + ".join(attack.label for attack in record.attacks),
            waterfall=[figures.waterfall("waterfall", content.falls(record))],
            classes=[] if isinstance(classes, str) else [class_figures.accuracy_per_class("classes", classes)],
            classes_note=classes if isinstance(classes, str) else "",
            protocol=[
                (f"{attack['label']}: {stage.get('attack', '')}", tables.settings_rows(stage))
                for attack in record.protocol
                for stage in attack.get("stages", [attack])
            ],
            command=reproduce.eval_command(record),
            exhibits=exhibits if isinstance(exhibits, list) else [],
            exhibits_note=exhibits if isinstance(exhibits, str) else "",
        )

    def _exhibits(self, record: Record) -> list[Exhibit] | str | None:
        """Return the record's gallery, why it cannot be shown, or None if its images were not saved."""
        path = self.site.store.folder / "adversarial" / f"{record.id}.npz"
        if path.parent != self.site.store.folder / "adversarial" or not path.exists():
            return None
        try:
            return read_gallery(path, self.site.store.verdicts(record))
        except UserError as error:
            return str(error)
