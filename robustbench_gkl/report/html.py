"""Static pages that work from disk without a network: the report, and the leaderboard as one file."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.files import writable_folder, write_atomically
from robustbench_gkl.core.version import __version__
from robustbench_gkl.report import assets, class_figures, content, curves, figures, reproduce, tables
from robustbench_gkl.report.content import ClassAccuracy, Point
from robustbench_gkl.report.figures import Figure
from robustbench_gkl.report.gallery import Exhibit, read_gallery
from robustbench_gkl.results import Record, ResultStore, leaderboard
from robustbench_gkl.results.board import Models

if TYPE_CHECKING:
    from jinja2 import Environment

GENERATOR = '<meta name="generator" content="gklbench'
"""By which we know our own pages, and replace no others."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    index: Path
    models: int
    records: int


def write_report(out: Path, *, results_dir: Path, checkpoints_dir: Path, strict: bool = False) -> Report:
    """Write the report over all records: ``index.html``, ``models/NAME.html`` and ``assets/``.

    The same records give the same bytes.

    Args:
        out: the folder, which is made if need be; pages of an earlier report in it are replaced.
        results_dir: the folder with ``records/``, ``verdicts/`` and, where images were saved, ``adversarial/``.
        checkpoints_dir: where runs are kept, for training curves.
        strict: refuse broken records instead of passing them by.

    Raises:
        UserError: the extra is not installed; no records; ``out`` holds other pages or cannot be written to.
    """
    assets.require_extra()
    store = ResultStore(results_dir, strict=strict)
    records = sorted(store.records(), key=lambda record: record.created, reverse=True)
    if not records:
        raise UserError(f"there are no records in {results_dir}; evaluate a model first or give --results-dir")
    frame = leaderboard(results_dir)
    writable_folder(out, what="the report's folder")
    _refuse_others(out)
    site = _Site(store, records, checkpoints_dir, frame)
    pages = {f"models/{site.slugs[name]}.html": site.model_page(name) for name in site.models}
    pages |= {"index.html": site.index_page()}
    for name in ("models", "assets"):
        (out / name).mkdir(exist_ok=True)
    scripts = {
        "style.css": assets.style(),
        "report.js": assets.script(),
        "tables.js": assets.tables_script(),
        "plotly.min.js": assets.plotly_script(),
    }
    for old in (out / "models").glob("*.html"):
        if f"models/{old.name}" not in pages and _is_ours(old):
            old.unlink()
    for path, text in (*((f"assets/{name}", text) for name, text in scripts.items()), *pages.items()):
        write_atomically(out / path, text)
    return Report(out / "index.html", len(site.models), len(records))


def leaderboard_page(frame: pd.DataFrame) -> str:
    """Return a leaderboard as one HTML file with everything it needs inside.

    Raises:
        UserError: the extra is not installed.
    """
    assets.require_extra()
    return (
        page_templates()
        .get_template("leaderboard.html.jinja")
        .render(
            board=tables.table_view(frame, links={}),
            inline={"style": assets.style(), "scripts": [assets.tables_script(), assets.script()]},
            root="",
            version=__version__,
        )
    )


def save_leaderboard_page(frame: pd.DataFrame, path: Path) -> None:
    """Write a leaderboard as one HTML file.

    Raises:
        UserError: the extra is not installed, or the file cannot be written.
    """
    page = leaderboard_page(frame)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def page_templates() -> Environment:
    """Return the templates' environment; it escapes whatever a template does not declare safe."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(assets.TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}
    env.filters["specs"] = lambda drawn: [figure.spec() for figure in drawn]
    env.filters["command"] = reproduce.shell_text
    return env


def page_names(models: Sequence[str]) -> dict[str, str]:
    """Return a file name for each model: its own where that is safe and unlike all others, else a marked one.

    Names that differ in case alone are one file on some systems, so they are marked too.
    """
    folded = Counter(name.casefold() for name in models)
    names = {}
    for name in models:
        clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80].lstrip(".-") or "model"
        marked = f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        names[name] = name if clean == name and folded[name.casefold()] == 1 else marked
    return names


def _refuse_others(out: Path) -> None:
    index = out / "index.html"
    if index.exists() and not _is_ours(index):
        raise UserError(f"{index} is not a report of gklbench and is not replaced; give another --out")


def _is_ours(page: Path) -> bool:
    return GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:2000]


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


class _Site:
    """The pages over one results folder."""

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
        self.links = {name: f"models/{slug}.html" for name, slug in self.slugs.items()}
        self.env = page_templates()

    def _render(self, template: str, *, root: str, **values: Any) -> str:
        return self.env.get_template(template).render(
            root=root, inline=None, version=__version__, newest=self.records[0].created[:10], **values
        )

    def index_page(self) -> str:
        """Return the page over all models."""
        settings = content.by_setting(self.records)
        failed = sum(self.frame["checks"] == "FAIL")
        facts = [
            ("Models", len(self.models)),
            ("Records", len(self.records)),
            ("Data sets", len({record.data.dataset for record in self.records})),
            ("Threat models", len({str(record.threat) for record in self.records})),
            ("Rows that fail their checks", failed),
        ]
        return self._render(
            "index.html.jinja",
            root="",
            facts=facts,
            board=tables.table_view(self.frame, links=self.links),
            scatter=figures.clean_against_robust(self.frame, links=self.links),
            radii=[
                figures.accuracy_against_eps(at.label, lines) for at, lines in content.by_radius(self.records).items()
            ],
            falls=[
                figures.who_fell_to_what(at.label, {record.model.name: content.falls(record) for record in found})
                for at, found in settings.items()
            ],
            classes=[
                class_figures.classes_of_models(at.label, known)
                for at, found in settings.items()
                if (known := self._known_classes(found))
            ],
        )

    def _known_classes(self, records: Sequence[Record]) -> Mapping[str, Sequence[ClassAccuracy]]:
        found = {record.model.name: self.classes[record.id] for record in records}
        return {name: classes for name, classes in found.items() if not isinstance(classes, str)}

    def model_page(self, name: str) -> str:
        """Return the page of one model."""
        records = self.models[name]
        current = [record for record in records if name in self._names(record.model.model_sha256)]
        main = content.headline(current or records)
        metrics = content.read_metrics(main, self.checkpoints_dir)
        drawn = [] if isinstance(metrics, str) else [curves.accuracy_curves(metrics), curves.loss_curves(metrics)]
        config = main.model.train_config
        return self._render(
            "model.html.jinja",
            root="../",
            name=name,
            main=main,
            robust=Point.of_percentage(self._best_known(name, main), main.data.n),
            weights=sorted({record.model.weights_sha256 for record in records}),
            board=tables.table_view(self._rows_of(name), links={}, heading="threat"),
            recipe=None if config is None else tables.settings_rows(config),
            train_command=reproduce.train_command(main),
            curves=[figure for figure in drawn if figure is not None],
            curves_note=metrics if isinstance(metrics, str) else "",
            radii=[figures.accuracy_against_eps(at.label, lines) for at, lines in content.by_radius(records).items()],
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

    def _rows_of(self, name: str) -> pd.DataFrame:
        """Return the leaderboard's rows of one model, under whatever name they are, smaller radii first."""
        listed = [names[0] for names in map(self._names, self.known.names) if name in names]
        rows = self.frame[self.frame["model"].isin(listed)].drop(columns="model")
        place = rows["dataset"] + " " + rows["threat"].map(tables.threat_order)
        return rows.loc[place.sort_values(kind="stable").index]

    def _names(self, model_sha256: str) -> list[str]:
        """Return the names of a model that no newer one has."""
        return self.known.names[model_sha256] if model_sha256 in self.known.current else []

    def _record_view(self, record: Record) -> RecordView:
        classes = self.classes[record.id]
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
        path = self.store.folder / "adversarial" / f"{record.id}.npz"
        if path.parent != self.store.folder / "adversarial" or not path.exists():
            return None
        try:
            return read_gallery(path, self.store.verdicts(record))
        except UserError as error:
            return str(error)
