"""Leaderboards in a notebook: data frames that show themselves as boards."""

from __future__ import annotations

import copy
import pickle
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from synthetic_records import make_record, outcome

import robustbench_gkl as gkl
from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.notebook import Leaderboard
from robustbench_gkl.results.published_rows import with_published


class Page(HTMLParser):
    """The tables of a page: captions, and the texts of cells row by row; ``bold`` and ``grey`` are those marked so."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.captions: list[str] = []
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.grey: list[list[str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "a tag is left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
            if "opacity" in (dict(attrs).get("style") or ""):
                self.grey.append(self.rows[-1])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "caption" in self._open:
            self.captions.append(data)
        elif {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
            if "b" in self._open:
                self.bold.append(data)


@pytest.fixture
def board(store: ResultStore) -> pd.DataFrame:
    for model, stands in (("a<b>", 60), ("other", 60), ("third", 30)):
        make_record(store, outcome(stands=stands, broken=90 - stands, wrong=10), model=model)
    make_record(store, outcome(stands=80, broken=20), model="half", partial=True)
    make_record(store, outcome(stands=40, broken=60), model="other", eps="0.2")
    return leaderboard(store.folder)


def shown(frame: pd.DataFrame) -> Page:
    html = frame._repr_html_()  # type: ignore[operator]
    assert html is not None
    return Page(html)


def test_each_board_is_a_table_under_its_setting(board: pd.DataFrame) -> None:
    page = shown(board)
    assert page.captions == [
        "digits, 100 test images, linf 0.1, tier gradient",
        "digits, 100 test images, linf 0.2, tier gradient",
    ]
    assert page.rows[0][:5] == ["rank", "model", "clean %", "robust %", "95 % interval"]
    assert page.rows[1][:5] == ["1", "a<b>", "90.00", "60.00", "50.2 to 69.1"]


def test_the_best_is_bold_and_what_has_no_rank_is_grey_with_the_reason(board: pd.DataFrame) -> None:
    page = shown(board)
    first = page.rows[: page.rows.index(["no rank"])]
    assert page.bold == ["90.00", "60.00", "90.00", "60.00", "90.00", "100.00", "40.00"]
    assert len(first) == 4
    ((rank, model, *_, reason),) = page.grey
    assert (rank, model, reason) == ("–", "half", "a complete attack (pgd-20 stopped early)")


def test_it_is_a_data_frame_for_those_who_compute(board: pd.DataFrame, tmp_path: Path) -> None:
    assert isinstance(board, pd.DataFrame)
    plain = pd.DataFrame(board)
    assert type(plain) is pd.DataFrame
    assert repr(board) == repr(plain)
    assert board.to_csv() == plain.to_csv()
    assert board.query("n > 1").groupby("model")["worst_case_acc"].max()["other"] == 60
    for again in (pickle.loads(pickle.dumps(board)), copy.deepcopy(board)):
        pd.testing.assert_frame_equal(again, board)
        assert shown(again).captions == shown(board).captions
    board.to_parquet(tmp_path / "board.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "board.parquet"), plain, check_frame_type=False)


def test_what_is_filtered_or_sorted_is_shown_likewise_and_what_is_no_board_as_pandas_does(board: pd.DataFrame) -> None:
    best = board[board["threat"] == "linf 0.1"].sort_values("clean_acc", ascending=False)
    assert isinstance(best, Leaderboard)
    assert len(shown(best).captions) == 1
    for other in (board[["rank", "model"]], board.describe(), board.head(0), board.T):
        assert shown(other).captions == []
        assert other._repr_html_() == pd.DataFrame(other)._repr_html_()  # type: ignore[operator]
    for other in (board.astype(str), board.assign(dataset=3)):  # what boards compare is none of theirs any more
        assert other._repr_html_() == pd.DataFrame(other)._repr_html_()  # type: ignore[operator]
    noted = shown(board.assign(n=float("nan"), notes=pd.Series([["a", 1]] * len(board), index=board.index)))
    assert noted.captions[0] == "digits, test images, linf 0.1, tier gradient"
    assert "['a', 1]" in noted.rows[1]
    doubled = pd.concat([board, board], axis=1)
    assert doubled._repr_html_() == pd.DataFrame(doubled)._repr_html_()  # type: ignore[operator]


def test_published_rows_and_families_are_shown_too(store: ResultStore) -> None:
    for seed in (0, 1):
        broken = outcome(stands=50 + seed, broken=50 - seed, by="apgd-ce")
        make_record(
            store,
            broken,
            dataset="cifar10",
            eps="8/255",
            attacks=("autoattack",),
            model=f"net-{seed}",
            train_seed=seed,
        )
    families = shown(gkl.leaderboard(store.folder, average_seeds=True))
    assert "spread" in families.rows[0]
    html = with_published(gkl.leaderboard(store.folder))._repr_html_()  # type: ignore[operator]
    assert "measured elsewhere, on 10,000 images" in html


def test_pandas_limits_hold(board: pd.DataFrame) -> None:
    with pd.option_context("display.max_rows", 2):
        assert [row[1] for row in shown(board).rows[1:]] == ["a<b>", "other"]
        assert "3 more rows" in board._repr_html_()  # type: ignore[operator]
    with pd.option_context("display.notebook_repr_html", False):
        assert board._repr_html_() is None  # type: ignore[operator]
