"""The pages as text: what is in them, what is kept out, and which files are written."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from command_line import CommandLine
from report_samples import HOSTILE, save_many, save_record
from synthetic_records import make_record, outcome

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.project import documentation
from robustbench_gkl.report import assets
from robustbench_gkl.report.content import by_radius, by_setting, falls, headline, per_class, read_metrics
from robustbench_gkl.report.curves import accuracy_curves
from robustbench_gkl.report.html import leaderboard_page, write_report
from robustbench_gkl.report.pages import page_names
from robustbench_gkl.report.tables import table_view, threat_order
from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.statistics import wilson_interval

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return save_many(tmp_path_factory.mktemp("many") / "results", seeds=2, eps=("4/255", "8/255"), n=100)


class Elements(HTMLParser):
    """All start tags of a page with their attributes, and whether each is closed."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def written(out: Path, store: ResultStore) -> dict[str, bytes]:
    write_report(out, results_dir=store.folder, checkpoints_dir=Path("none"))
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def pages(store: ResultStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages of a report, written once, by their paths."""
    found = written(tmp_path_factory.mktemp("pages"), store)
    return {name: content.decode() for name, content in found.items() if name.endswith(".html")}


def test_a_page_for_each_model_and_the_same_bytes_each_time(store: ResultStore, tmp_path: Path) -> None:
    first = written(tmp_path / "a", store)
    names = {record.model.name for record in store.records()}
    assert set(first) == {
        "index.html",
        *(name for name in first if name.startswith("boards/")),
        *(f"models/{name}.html" for name in names),
        *(f"assets/{name}" for name in ("style.css", "report.js", "tables.js", "plotly.min.js")),
    }
    assert len([name for name in first if name.startswith("boards/")]) == 1  # of two boards; the larger is the index
    assert written(tmp_path / "b", store) == first
    assert written(tmp_path / "a", store) == first


def test_all_that_a_page_refers_to_is_beside_it(pages: dict[str, str]) -> None:
    files = {*pages, *(f"assets/{name}" for name in ("style.css", "report.js", "tables.js", "plotly.min.js"))}
    for name, page in pages.items():
        elements = Elements(page)
        assert not elements.open, name
        ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
        assert len(ids) == len(set(ids))
        for _, attributes in elements.found:
            for key in ("src", "href", "data-plotly"):
                target = attributes.get(key) or ""
                if target.startswith("#"):
                    assert target[1:] in ids, target
                elif target and not target.startswith(("data:", "https://")):
                    assert os.path.normpath(Path(name).parent / target.partition("#")[0]) in files, target


def test_pages_are_accessible_as_far_as_text_tells(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        elements = Elements(page)
        for landmark in ("header", "main", "footer", "h1", "title"):
            assert len(elements.tags(landmark)) == 1, (name, landmark)
        assert all(attributes.get("aria-label") for attributes in elements.tags("nav"))
        assert all(attributes.get("scope") in ("row", "col") for attributes in elements.tags("th"))
        assert all(attributes.get("alt") for attributes in elements.tags("img"))
        assert len(elements.tags("caption")) == len(elements.tags("table"))
        plots = [attributes for attributes in elements.tags("div") if attributes.get("class") == "plot"]
        assert plots
        assert all(attributes.get("aria-label") for attributes in plots)


def test_nothing_is_loaded_from_elsewhere(pages: dict[str, str]) -> None:
    outside = re.compile(r"https?:|//")
    for name, page in pages.items():
        for tag, attributes in Elements(page).found:
            loaded = [attributes.get(key) or "" for key in ("src", "srcset", "data-plotly", "poster", "data")]
            loaded += [attributes.get("href") or ""] * (tag != "a")
            assert not any(outside.match(target) for target in loaded), (name, tag, attributes)
    assert not re.search(r"url\(|@import", assets.style())


def test_every_page_has_an_icon_and_says_what_it_is(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        elements = Elements(page)
        (icon,) = (link for link in elements.tags("link") if link["rel"] == "icon")
        kind, _, picture = str(icon["href"]).partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(picture)).tag.endswith("}svg")
        said = {meta.get("property"): meta["content"] for meta in elements.tags("meta") if "property" in meta}
        assert said["og:site_name"] == "gklbench"
        assert re.search(r"\d\d\.\d\d % robust accuracy|robust accuracy \d", str(said["og:description"])), name
        image = str(said["og:image"])
        assert (DOCS / image.removeprefix(documentation() + "/")).is_file()


def test_headings_lead_to_pages_of_the_protocol_that_are_there(pages: dict[str, str]) -> None:
    targets = set()
    for name, page in pages.items():
        links = [link["href"] or "" for link in Elements(page).tags("a")]
        protocol = {link for link in links if link.startswith(documentation() + "/protocol/")}
        assert len(protocol) >= 4, name
        targets |= protocol
    for target in targets:
        page, _, anchor = target.removeprefix(documentation() + "/").partition("#")
        text = (DOCS / page).with_suffix(".md").read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


def test_every_figure_is_drawn_on_the_page(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        figures = re.findall(r'<figure class="chart".*?</figure>', page, flags=re.DOTALL)
        assert figures, name
        for figure in figures:
            specs = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', figure, re.DOTALL)[0])
            pictures = re.findall(r'<div class="picture">(<svg.*?</svg>)', figure, flags=re.DOTALL)
            assert len(pictures) == len(specs) > 0
            for picture in pictures:
                assert len(ElementTree.fromstring(picture)) > 5
            assert [spec["alt"] for spec in specs] == re.findall(
                r'class="still" role="img" aria-label="(.*?)"', html.unescape(figure)
            )


def test_the_chooser_has_the_largest_board_first_with_its_sentence(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    long = "npz:/data/projects/2026-03/cifar10-jpeg-quality-75-subset-12000.npz"
    for model, stands in (("a", 9), ("b", 2)):
        make_record(store, outcome(stands=stands, broken=10 - stands), model=model, dataset=long)
    make_record(store, outcome(stands=9, broken=1), model="a")
    pages = {name: content.decode() for name, content in written(tmp_path / "out", store).items() if "html" in name}
    (other,) = (name for name in pages if name.startswith("boards/"))
    chooser = re.findall(r'<nav class="boards.*?</nav>', pages["index.html"], flags=re.DOTALL)[0]
    links = re.findall(r'<a href="(.*?)"( aria-current="page")?>', chooser.partition("<ol>")[2])
    assert links == [("index.html", ' aria-current="page"'), (other, "")]
    sentences = re.findall(r"<p>(.*?)</p>", chooser)
    assert [sentence.split(" robust")[0] for sentence in sentences] == ["a leads with 90.00 %", "a has 90.00 %"]
    for page in (pages["index.html"], pages["models/a.html"]):  # short, with the whole for a pointer and a reader
        assert f'<span title="{long}" aria-hidden="true">npz:…/cifar10-jpeg-…et-12000.npz</span>' in page
        assert f'<span class="hidden">{long}</span>' in page
    rows = re.findall(r'<th scope="row".*?</th>', pages["index.html"])
    assert [re.sub("<.*?>", "", row) for row in rows] == ["a", "b"]
    assert f'href="../{other}">linf 0.1</a>' in pages["models/a.html"]


def test_what_a_record_says_cannot_become_markup(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    store.prepare()
    plain = save_record(store, name="plain", loss="trades", n=50)
    save_record(store, name="$(id)", loss="trades", n=50)
    hostile = save_record(store, name=HOSTILE, loss="trades", n=50, minute=1, verdict="FAIL")
    check = hostile.checks[0].model_copy(update={"name": HOSTILE, "figure": HOSTILE, "advice": f'"{HOSTILE}'})
    changes = {
        "model": hostile.model.model_copy(
            update={"arch": HOSTILE, "loss": HOSTILE, "train_config": {HOSTILE: HOSTILE}}
        ),
        "data": hostile.data.model_copy(update={"dataset": HOSTILE}),
        "environment": {HOSTILE: HOSTILE},
        "protocol": ({"label": HOSTILE, "stages": [{HOSTILE: HOSTILE}]},),
        "checks": (check,),
    }
    path = store.record_path(hostile.id)
    path.write_text(hostile.model_copy(update=changes).sealed().text())
    assert plain.id != hostile.id
    pages = written(tmp_path / "out", store)
    assert [name for name in pages if ".." in name] == []
    for name, content in pages.items():
        if name.endswith(".html"):
            page = content.decode()
            assert HOSTILE not in page
            for attributes in Elements(page).tags("script"):
                assert set(attributes) <= {"src", "defer", "type"}
        # Nor does a command that is copied run what a name says.
        assert b"eval $(id)" not in content
    page = leaderboard_page(leaderboard(store.folder))
    assert HOSTILE not in page
    assert "&lt;script&gt;document.title" in page


def test_columns_that_are_new_just_appear() -> None:
    frame = pd.DataFrame(
        {
            "rank": pd.array([1, 2, None, 1], dtype="Int64"),
            "model": ["a", "b", "c", "d"],
            "threat": ["linf 1", "linf 1", "linf 1", "linf 2"],
            "source": ["published", "ours", "ours", "published"],
            "mean_ce": [81.25, 1234.5, None, 3],
            "ties": [True, False, True, False],
            "checks": ["PASS", "WARN", "FAIL", None],
            "comment": ["p", "q", "r", "s"],
        }
    )
    view = table_view(frame, links=[None, "models/b.html", None, None])
    assert [column.key for column in view.columns] == [
        "rank", "model", "threat", "checks", "source", "mean_ce", "ties", "comment"
    ]  # fmt: skip
    assert {column.key: column.choices for column in view.columns if column.choices} == {
        "threat": ("linf 1", "linf 2"),
        "source": ("ours", "published"),
        "ties": ("False", "True"),
    }
    assert [column.key for column in view.columns if column.numeric] == ["rank", "mean_ce"]
    texts = [[cell.text for cell in row.cells] for row in view.rows]
    assert texts[1] == ["2", "b", "linf 1", "WARN", "ours", "1,234.50", "False", "q"]
    assert texts[2][0] == texts[2][5] == texts[3][3] == "–"
    assert [row.starts_group for row in view.rows] == [False, False, False, True]
    assert [row.ranked for row in view.rows] == [True, True, False, True]
    assert [row.cells[1].link for row in view.rows] == [None, "models/b.html", None, None]


def test_without_an_attack_there_is_one_accuracy() -> None:
    rows = {"rank": [1, 2], "model": ["a", "b"], "clean_acc": [90.0, 80.0], "worst_case_acc": [90.0, 80.0]}
    for threats, labels in ((["clean"] * 2, ["Clean %"]), (["clean", "linf 1"], ["Robust %", "Clean %"])):
        view = table_view(pd.DataFrame(rows | {"threat": threats}))
        assert [column.label for column in view.columns if column.key.endswith("_acc")] == labels
        assert [row.cells[2].text for row in view.rows] == ["90.00", "80.00"]


def test_names_of_pages_are_safe_and_unlike() -> None:
    names = ["gkl-1", "GKL-1", "../../etc/passwd", HOSTILE, "..", "", "日本", "x" * 200, ".hidden", "ok_2.0"]
    pages = page_names(names)
    assert list(pages) == names
    assert pages["ok_2.0"] == "ok_2.0"
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,90}", page) for page in pages.values()), pages
    assert len({page.casefold() for page in pages.values()}) == len(names)
    marked = pages["../../etc/passwd"]
    assert len(set(page_names(["../../etc/passwd", marked, marked.upper()]).values())) == 3


def test_who_fell_to_what_counts_every_sample_once(store: ResultStore) -> None:
    for record in store.records():
        verdicts = store.verdicts(record)
        counts = verdicts["broken_by"].fillna("standing").value_counts()
        told = {fall.name.replace("wrong without attack", "clean"): fall.count for fall in falls(record)}
        assert sum(told.values()) == record.data.n
        assert {name: count for name, count in told.items() if count} == counts.to_dict()


def test_accuracy_per_class_is_that_of_the_class_alone(store: ResultStore) -> None:
    record = next(iter(store.records()))
    verdicts = store.verdicts(record)
    classes = per_class(verdicts)
    assert [item.label for item in classes] == sorted(set(verdicts["label"]))
    for item in classes:
        rows = verdicts[verdicts["label"] == item.label].to_dict("records")
        standing = sum(row["broken_by"] is pd.NA or row["broken_by"] is None for row in rows)
        assert item.n == len(rows)
        assert item.clean.value == pytest.approx(100 * sum(r["clean_pred"] == r["label"] for r in rows) / len(rows))
        assert item.robust.value == pytest.approx(100 * standing / len(rows))
        assert (item.robust.low / 100, item.robust.high / 100) == pytest.approx(wilson_interval(standing, len(rows)))


def test_pictures_join_only_what_is_comparable(store: ResultStore) -> None:
    records = list(store.records())
    settings = by_setting(records)
    assert len(settings) == 4  # two radii, with and without AutoAttack
    for setting, found in settings.items():
        assert len(found) == len({record.model.name for record in found}) == 10
        assert {record.threat.eps for record in found} == {setting.eps}
        assert [record.worst_case_acc for record in found] == sorted((r.worst_case_acc for r in found), reverse=True)
    for curves in by_radius(records).values():
        assert len(curves) == 10
        for curve in curves:
            assert [float(eps * 255) for eps in curve.eps] == [0, 4, 8]
            clean = {r.clean_acc for r in records if r.model.name == curve.model}
            assert curve.points[0].value == pytest.approx(min(clean))
    assert [setting.eps for setting in settings] == ["4/255", "4/255", "8/255", "8/255"]
    smaller_newest = sorted(records, key=lambda record: (record.threat.eps == "4/255", record.created))
    dated = [record.model_copy(update={"created": f"{i:04}"}) for i, record in enumerate(smaller_newest)]
    main = headline(dated)
    assert (len(main.attacks), main.threat.eps) == (2, "8/255")  # the stronger attack, and the threat trained for


def test_full_autoattack_goes_before_more_but_weaker_stages(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    full = make_record(store, outcome(stands=4, broken=6, by="square"), attacks=("autoattack",))
    others: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("autoattack:version=quick",), {}),
        (("pgd-20", "autoattack:version=quick", "apgd-t"), {}),
        (("autoattack",), {"partial": True, "seed": 1}),
        (("none",), {"eps": "0"}),
    ]
    for attacks, options in others:
        by = "clean" if attacks == ("none",) else "apgd-ce"
        other = make_record(store, outcome(stands=5, broken=5, by=by), attacks=attacks, created="2027", **options)
        assert headline([full, other]) is headline([other, full]) is full


def test_a_page_headlines_the_current_model_and_shows_the_rows_of_a_copy(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    old = make_record(store, outcome(stands=9, broken=1), model="a", weights="old", attacks=("autoattack",))
    new = make_record(store, outcome(stands=3, broken=7), model="a", weights="new", created="2027")
    make_record(
        store, outcome(stands=3, broken=7), model="b", weights_sha256=new.model.weights_sha256, seed=1, created="2028"
    )
    pages = written(tmp_path / "out", store)
    lead = re.search(r'<p class="lead">.*?</p>', pages["models/a.html"].decode(), flags=re.DOTALL)
    assert lead is not None
    assert new.id in lead[0]
    assert old.id not in lead[0]
    assert '<td class="number" data-order="30.0">' in pages["models/b.html"].decode()


def test_a_line_parts_boards_and_tiers(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for model, attack, samples, eps in (
        *(("a", "autoattack", "", "0.1"), ("b", "autoattack", "", "0.1"), ("c", "pgd-20", "", "0.1")),
        *(("d", "pgd-20", "replaced", "0.1"), ("e", "pgd-20", "replaced", "0.2")),
    ):
        make_record(store, [None] * 9, model=model, attacks=(attack,), samples=samples, eps=eps)
    make_record(store, [None] * 9, model="f", partial=True)
    frame = leaderboard(tmp_path)
    view = table_view(frame)
    starts = dict(zip(frame["model"], [row.starts_group for row in view.rows], strict=True))
    boards = [frame["model"].tolist().index(model) for model in ("a", "d")]
    first = frame["model"].iloc[min(boards)]
    assert {model for model, begins in starts.items() if begins} == {"a", "c", "d", "e", "f"} - {first}


def test_threats_are_sorted_by_the_size_of_their_radius() -> None:
    threats = ["linf 16/255", "linf 2/255", "l2 1", "linf 0.3", "linf 8/255", "l2 0.5"]
    assert sorted(threats, key=threat_order) == [threats[i] for i in (5, 2, 1, 4, 0, 3)]
    assert threat_order("something else") == "something else"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"epochs": 9}, "other settings"),
        (None, "not there"),
    ],
    ids=["the same run", "trained anew", "no folder"],
)
def test_curves_are_those_of_the_recorded_run(change: dict[str, object] | None, says: str, tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    store.prepare()
    record = save_record(store, name="run", n=20)
    assert record.model.train_config is not None
    if change is not None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/config.json").write_text(json.dumps({"train": record.model.train_config | change}))
        (tmp_path / "run/metrics.csv").write_text("epoch,loss\n1,2.5\n")
    found = read_metrics(record, tmp_path)
    if says:
        assert isinstance(found, str)
        assert says in found
    else:
        assert isinstance(found, pd.DataFrame)
        assert found["loss"].tolist() == [2.5]


def test_pages_of_others_are_left_alone(store: ResultStore, tmp_path: Path) -> None:
    name = next(iter(store.records())).model.name
    for place in ("index.html", "assets/style.css", f"models/{name}.html", "boards"):
        out = tmp_path / place.replace("/", "-")
        (out / place).parent.mkdir(parents=True)
        (out / place).write_text("mine")
        with pytest.raises(UserError, match=f"{re.escape(str(out / place))} is not of a report of gklbench"):
            write_report(out, results_dir=store.folder, checkpoints_dir=tmp_path)
        assert [path for path in out.rglob("*") if path.is_file()] == [out / place]
        assert (out / place).read_text() == "mine"


def test_a_report_that_was_interrupted_is_written_again(store: ResultStore, tmp_path: Path) -> None:
    whole = written(tmp_path, store)
    (tmp_path / "index.html").unlink()
    assert written(tmp_path, store) == whole
    (tmp_path / "assets/style.css").write_text("of an earlier version")
    assert written(tmp_path, store) == whole


def test_pages_of_models_that_are_gone_go(store: ResultStore, tmp_path: Path) -> None:
    before = written(tmp_path, store)
    old = tmp_path / "models/old.html"
    old.write_bytes(before["index.html"])
    (tmp_path / "models/notes.html").write_text("mine")
    after = written(tmp_path, store)
    assert set(after) - set(before) == {"models/notes.html"}


def test_verdicts_that_are_not_the_recorded_ones_are_told_of(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    store.prepare()
    record = save_record(store, name="run", n=20)
    store.verdicts_path(record.id).write_bytes(b"something else")
    page = written(tmp_path / "out", store)["models/run.html"].decode()
    assert "is not the file that its record was written with" in page


@pytest.mark.parametrize("missing", ["plotly", "itables"])
def test_without_the_extra_one_line_says_how_to_get_it(
    missing: str, store: ResultStore, tmp_path: Path, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "find_spec", lambda name: None if name == missing else object())
    for arguments in (("report", "--out", tmp_path / "out"), ("leaderboard", "--html", tmp_path / "board.html")):
        result = gklbench(*arguments, "--results-dir", store.folder)
        assert result.code == 2
        assert result.err == f"Error: HTML pages need {missing}; install with: pip install 'gklbench[report]'\n"
    assert not list(tmp_path.iterdir())


def test_the_commands(store: ResultStore, tmp_path: Path, gklbench: CommandLine) -> None:
    arguments = ("--results-dir", store.folder)
    result = gklbench("report", "--out", tmp_path / "out", *arguments)
    assert (result.code, result.out) == (0, f"wrote {tmp_path}/out/index.html: 10 models, 40 records\n")
    board = tmp_path / "deep/board.html"
    assert gklbench("leaderboard", "--html", board, *arguments).code == 0
    assert "gkl-preact-resnet18-seed1" in board.read_text()
    assert not re.search(r'src="|href="(?!data:|#|"|https://)|<link(?! rel="icon")', board.read_text())
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        failed = gklbench("report", "--out", tmp_path / "new", "--results-dir", tmp_path / folder)
        assert failed.code == 2
        assert str(tmp_path / folder) in failed.err
    assert gklbench("report", "--out", board, *arguments).code == 2
    assert gklbench("report", *arguments).code == 2


def test_a_report_needs_no_torch(store: ResultStore, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from robustbench_gkl.cli import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["report", "--out", str(tmp_path), "--results-dir", str(store.folder)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_curves_of_a_run_from_before_a_key_was_added_are_shown(store: ResultStore, tmp_path: Path) -> None:
    record = next(iter(store.evaluations.all()))
    trained = TrainConfig(dataset="digits").model_dump(mode="json")
    record = record.model_copy(update={"model": record.model.model_copy(update={"name": "r", "train_config": trained})})
    (tmp_path / "r").mkdir()
    older = {key: value for key, value in trained.items() if key != "probe"} | {"probe": {"steps": 10}}
    (tmp_path / "r/config.json").write_text(json.dumps({"train": older}))
    (tmp_path / "r/metrics.csv").write_text("epoch,loss,val_clean_acc\n1,2.5,50\n2,2.0,\n")
    found = read_metrics(record, tmp_path)
    assert isinstance(found, pd.DataFrame)
    figure = accuracy_curves(found)
    assert figure is not None
    assert "at the end clean, validation 50.0 %" in figure.alt
