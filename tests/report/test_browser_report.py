"""The pages in Chromium, opened from disk. Skipped where Chromium or playwright is absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from report_samples import HOSTILE, save_many, save_record
from synthetic_records import make_record, outcome

from robustbench_gkl.report.html import save_leaderboard_page, write_report
from robustbench_gkl.results import leaderboard

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, WIDE = (360, 740), (1600, 950)
MODEL = "models/gkl-preact-resnet18-seed0.html"
DEEP = "npz:/data/projects/robustness/converted/2026-03/cifar10-jpeg-quality-75-subset-12000.npz"
LONG = f"long-{'<of>-' * 38}seed0"
PAGES = ("index.html", MODEL, "models/deep.html", "hostile", "board.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over 63 records, one of a model with a hostile name, and the leaderboard page beside it."""
    folder = tmp_path_factory.mktemp("report")
    store = save_many(folder / "results", seeds=3, eps=("4/255", "8/255"), n=100)
    for eps in ("0.1", "0.2"):
        make_record(store, outcome(stands=60, broken=40), model="deep", dataset=DEEP, eps=eps)
    make_record(store, outcome(stands=50, broken=50), model=LONG, dataset=DEEP, eps="0.1")
    record = save_record(store, name=HOSTILE, loss=None, n=100, minute=500)
    fallen = store.verdicts(record).query("broken_by == 'pgd-20'")["index"].to_numpy()[:3]
    original = np.random.default_rng(0).integers(20, 236, (len(fallen), 3, 8, 8), dtype=np.uint8)
    (store.folder / "adversarial").mkdir()
    np.savez(
        store.folder / "adversarial" / f"{record.id}.npz",
        index=fallen,
        images=(original / 255 + 8 / 255).astype(np.float32),
        original=original,
    )
    write_report(folder / "out", results_dir=store.folder, checkpoints_dir=folder)
    save_leaderboard_page(leaderboard(store.folder), folder / "out/board.html")
    return folder / "out"


@dataclass
class Visit:
    """An opened page, and what went wrong on it."""

    page: Page
    troubles: list[str] = field(default_factory=list)

    def rows(self) -> list[list[str]]:
        """Return the text of the leaderboard's rows that are shown."""
        found: list[list[str]] = self.page.evaluate(
            "[...document.querySelectorAll('table.board tbody tr')].map(tr => [...tr.cells].map(td => td.innerText))"
        )
        return found

    def column(self, heading: str) -> list[str]:
        """Return the shown cells under a heading."""
        headings = self.page.locator("table.board thead th").all_inner_texts()
        at = [text.strip("↕↑↓ \n") for text in headings].index(heading)
        return [row[at] for row in self.rows()]

    def colour(self, selector: str, name: str) -> str:
        """Return a computed colour."""
        found: str = self.page.eval_on_selector(selector, f"element => getComputedStyle(element).{name}")
        return found


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, report: Path) -> Iterator[Open]:
    """Open a page of the report; at the end nothing must have gone wrong on it."""
    contexts = []
    visits: list[Visit] = []

    def call(
        name: str, *, size: tuple[int, int] = WIDE, scheme: Literal["light", "dark"] = "light", scripts: bool = True
    ) -> Visit:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        opened = Visit(context.new_page())
        visits.append(opened)
        page, troubles = opened.page, opened.troubles
        page.on("console", lambda message: troubles.append(message.text) if message.type in BAD else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.append(f"failed {request.url[:100]}"))
        page.on(
            "request", lambda request: troubles.append(f"network {request.url}") if "http" in request.url[:4] else None
        )
        if name == "hostile":
            (found,) = (report / "models").glob("_script_*.html")
            name = f"models/{found.name}"
        page.goto((report / name).as_uri())
        if scripts:
            page.wait_for_selector("html[data-ready]")
        return opened

    yield call
    for opened in visits:
        assert opened.troubles == []
    for context in contexts:
        context.close()


BAD = ("error", "warning")


def draw_all(page: Page) -> int:
    """Scroll through a page with all its parts open until every chart is drawn; return how many there are."""
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    charts = page.locator("figure.chart")
    if charts.count():
        page.wait_for_selector("html[data-ready=charts]")
    for i in range(charts.count()):
        charts.nth(i).scroll_into_view_if_needed()
        charts.nth(i).locator(".plot .main-svg").first.wait_for()
    return charts.count()


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_and_fits(name: str, size: tuple[int, int], visit: Open) -> None:
    page = visit(name, size=size, scheme="dark" if size == PHONE else "light").page
    assert draw_all(page) == {"index.html": 4, "board.html": 0}.get(name, page.locator("figure.chart").count())
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    wider = page.evaluate(
        """[...document.querySelectorAll('main *')]
            .filter(element => !element.closest('.scroll, pre, .plot, .hidden'))
            .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
            .map(element => element.outerHTML.slice(0, 100))"""
    )
    assert wider == []


def test_a_click_on_a_heading_sorts(visit: Open) -> None:
    opened = visit("index.html")
    for heading in ("Clean %", "Robust %", "95 % interval"):
        for direction in ("ascending", "descending"):
            header = opened.page.locator("table.board thead th", has_text=heading)
            header.click()
            opened.page.wait_for_selector(f"th[aria-sort={direction}]:has-text('{heading}')")
            values = [float(text.partition("–")[0]) for text in opened.column(heading)]
            assert len(values) == 16
            assert values == sorted(values, reverse=direction == "descending")
    opened.page.locator("table.board thead th", has_text="Model").click()
    opened.page.wait_for_selector("th[aria-sort=ascending]:has-text('Model')")
    names = opened.column("Model")
    assert names == sorted(names, key=str.casefold)


def test_the_keyboard_sorts_too(visit: Open) -> None:
    opened = visit("index.html")
    header = opened.page.locator("table.board thead th", has_text="Clean %")
    header.locator("[role=button]").focus()
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_selector("th[aria-sort=ascending]:has-text('Clean %')")


def test_typing_filters(visit: Open) -> None:
    opened = visit("index.html")
    opened.page.get_by_role("searchbox").fill("mart-preact seed1")
    assert set(opened.column("Model")) == {"mart-preact-resnet18-seed1"}
    assert "of 16" in opened.page.locator(".dt-info").inner_text()
    opened.page.get_by_role("searchbox").fill("no such model")
    assert opened.rows() == [["No row matches."]]


def test_menus_filter_and_are_cleared(visit: Open) -> None:
    opened = visit("index.html")
    opened.page.get_by_role("combobox", name="Loss").select_option("trades")
    opened.page.get_by_role("combobox", name="Checks").select_option("WARN")
    assert opened.column("Loss") == ["trades"]
    assert opened.column("Checks") == ["WARN"]
    opened.page.get_by_role("button", name="Clear").click()
    opened.page.wait_for_function("document.querySelectorAll('table.board tbody tr').length === 16")


def test_failed_rows_are_shown_without_a_rank(visit: Open) -> None:
    opened = visit("index.html")
    opened.page.get_by_role("combobox", name="Checks").select_option("FAIL")
    assert opened.column("Checks") == ["FAIL"]
    assert opened.column("Rank") == ["–"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_chosen_and_is_remembered(
    scheme: Literal["light", "dark"], visit: Open
) -> None:
    opened = visit("index.html", scheme=scheme)
    page = opened.page
    draw_all(page)
    page.evaluate("scrollTo(0, 0)")
    colours = {"light": "rgb(250, 250, 248)", "dark": "rgb(15, 18, 22)"}
    other = "dark" if scheme == "light" else "light"
    assert opened.colour("body", "backgroundColor") == colours[scheme]
    ticks = opened.colour(".plot .xtick text", "fill")
    page.get_by_role("button", name=f"Use the {other} theme").click()
    assert opened.colour("body", "backgroundColor") == colours[other]
    page.wait_for_function(f"getComputedStyle(document.querySelector('.plot .xtick text')).fill !== '{ticks}'")
    page.goto(page.url.replace("index.html", MODEL))
    assert opened.colour("body", "backgroundColor") == colours[other]
    assert page.locator("#theme").inner_text().lower() == scheme


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_names_in_the_scatter_do_not_overlap(size: tuple[int, int], visit: Open) -> None:
    page = visit("index.html", size=size).page
    draw_all(page)
    boxes = page.evaluate(
        """[...document.querySelectorAll('#accuracy .textpoint text')].map(text => {
            const { left, right, top, bottom } = text.getBoundingClientRect(); return [left, right, top, bottom]; })"""
    )
    assert boxes
    for i, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            # Boxes of text are higher than its letters.
            apart = right <= other[0] or other[1] <= left or bottom <= other[2] + 4 or other[3] <= top + 4
            assert apart, (boxes[i], other)


def test_on_a_phone_the_main_columns_are_in_view(visit: Open) -> None:
    page = visit("index.html", size=PHONE).page
    seen = page.evaluate(
        """[...document.querySelectorAll('table.board thead th')]
            .filter(th => th.getBoundingClientRect().right <= innerWidth - 16).map(th => th.innerText.trim())"""
    )
    assert seen[:5] == ["Rank", "Model", "Robust %", "Clean %", "Threat"]
    for link in page.locator(".top nav a").all():
        box = link.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE[0]


def test_paper_has_still_figures_and_all_records(visit: Open) -> None:
    page = visit(MODEL).page
    page.wait_for_selector("html[data-ready=charts]")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(still.is_visible() for still in page.locator(".still svg").all())
    assert not any(live.is_visible() for live in page.locator(".plot").all())
    assert page.locator("details.record:not([open])").count() == 0


@pytest.mark.parametrize("size", [PHONE, WIDE])
def test_a_long_name_leaves_room_for_the_bars(size: tuple[int, int], report: Path, visit: Open) -> None:
    (board,) = (path for path in (report / "boards").iterdir() if "long-" in path.read_text())
    page = visit(f"boards/{board.name}", size=size).page
    page.wait_for_selector("html[data-ready=charts]")
    for figure in ("#attacks", "#classes"):
        whole, bars = (
            page.eval_on_selector(f"{figure} {part}", "part => part.getBoundingClientRect().width")
            for part in (".plot", ".plot .cartesianlayer .xy, .plot .bglayer rect")
        )
        assert bars > 0.5 * whole
        named = page.locator(f"{figure} .ytick text").all_text_contents()
        assert len(named) == 2
        assert any(name.startswith("long-<o") and "…" in name and name.endswith("seed0") for name in named)


def test_a_menu_changes_the_picture(visit: Open) -> None:
    page = visit("index.html").page
    draw_all(page)
    bars = page.locator("figure#attacks")
    before = bars.locator(".plot").get_attribute("aria-label")
    bars.locator("select").select_option(index=1)
    page.wait_for_function("label => document.querySelector('#attacks .plot').ariaLabel !== label", arg=before)


def test_a_model_leads_to_its_page_and_back(visit: Open) -> None:
    page = visit("index.html").page
    page.wait_for_selector("html[data-ready=charts]")
    page.get_by_role("link", name="gkl-preact-resnet18-seed0").first.click()
    page.wait_for_selector("html[data-ready=charts]")
    assert page.locator("h1").inner_text().startswith("gkl-preact-resnet18-seed0")
    page.get_by_role("link", name="All boards").click()
    page.wait_for_selector("html[data-ready=charts]")
    assert page.locator("h1").inner_text() == "Robustness report"


def test_a_hostile_name_is_harmless(visit: Open) -> None:
    for name in ("index.html", "hostile", "board.html"):
        page = visit(name).page
        draw_all(page)
        assert page.title() != "owned"
        assert page.get_by_text(HOSTILE).count() > 0


def test_saved_images_are_shown_and_what_was_not_saved_is_told(visit: Open) -> None:
    page = visit("hostile").page
    assert page.locator(".gallery li").count() == 3
    loaded = page.evaluate("[...document.querySelectorAll('.gallery img')].map(image => image.naturalWidth)")
    assert loaded == [8] * 9
    assert "× 15.9" in page.locator(".gallery p").first.inner_text().replace("\xa0", " ")
    assert visit(MODEL).page.get_by_text("--save-adversarial 16").first.is_visible()


def test_without_scripts_everything_can_be_read(visit: Open) -> None:
    page = visit("index.html", scripts=False).page
    assert len(page.locator("table.board tbody tr").all()) == 16
    assert all(still.is_visible() for still in page.locator(".still svg").all())
    for hidden in ("#theme", "form.filters", "label.setting", ".plot"):
        assert not page.locator(hidden).first.is_visible()


def test_a_command_is_copied(visit: Open) -> None:
    page = visit(MODEL).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("gklbench train --name gkl-preact-resnet18-seed0")
