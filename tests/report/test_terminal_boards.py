"""Leaderboards on a terminal: what is shown, how it is marked, and that nothing is broken in little room."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console
from synthetic_records import make_record, outcome
from test_certified import certified

from robustbench_gkl.report.terminal_boards import print_boards, print_leaderboard
from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.board_tables import BoardTable, board_tables
from robustbench_gkl.results.corruptions import COLUMNS
from robustbench_gkl.results.published_rows import with_published

FILE = "npz:/scratch/robustness/datasets/cifar10-jpeg-recompressed-quality-75-12k.npz"
SEEDS = [f"wrn-70-16-trades-awp-ema-synthetic-50m-seed{seed}-of-the-large-batch" for seed in (0, 1)]


def printed(frame: pd.DataFrame | list[BoardTable], *, width: int, colour: bool = False, no_color: bool = False) -> str:
    buffer = io.StringIO()
    system: Any = "standard" if colour else None
    console = Console(file=buffer, width=width, force_terminal=colour, color_system=system, no_color=no_color)
    if isinstance(frame, pd.DataFrame):
        print_leaderboard(frame, console)
    else:
        print_boards(frame, console)
    return buffer.getvalue()


@pytest.fixture
def frame(store: ResultStore) -> pd.DataFrame:
    """Three models of two tiers on the digits; the checks of the last fail."""
    for model, stands, verdict in (("alpha", 5, "PASS"), ("beta", 6, "WARN"), ("gamma", 7, "FAIL")):
        broken = outcome(stands=stands, broken=9 - stands, wrong=1)
        make_record(store, broken, model=model, verdict=verdict)  # type: ignore[arg-type]
        if model == "alpha":
            by = outcome(stands=5, broken=4, wrong=1, by="square")
            make_record(store, by, model=model, attacks=("autoattack",))
    return leaderboard(store.folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Two boards of a file with a long path: long names, three tiers, certificates, models without a rank."""
    store = ResultStore(tmp_path_factory.mktemp("large"))
    rows: list[tuple[str, int, dict[str, Any]]] = [
        (SEEDS[0], 552, {"attacks": ("autoattack",)}),
        (SEEDS[1], 551, {"attacks": ("autoattack",), "train_seed": 1}),
        ("rn18", 480, {"attacks": ("pgd-20", "apgd-ce", "autoattack")}),
        ("网络-二十八", 470, {"attacks": ("autoattack",)}),
        ("only-pgd", 700, {"attacks": ("pgd-20",), "engine": "reference"}),
        ("only-fgsm", 801, {"attacks": ("fgsm",), "verdict": "WARN"}),
        ("half-done-robust-network-of-somebody-else", 640, {"attacks": ("pgd-20", "autoattack"), "partial": True}),
        ("masked", 900, {"attacks": ("pgd-20",), "verdict": "FAIL", "check": "gradients"}),
    ]
    for model, stands, options in rows:
        for eps, more in (("2/255", 37), ("8/255", 0)):
            if more and model.startswith("only"):
                continue
            stands += more
            broken = outcome(stands=stands, broken=960 - stands, wrong=40, by=options["attacks"][0])
            record = make_record(store, broken, model=model, dataset=FILE, eps=eps, keep_standing=True, **options)
            if model == "rn18":
                certified(store, record, list(range(200 + more)))
    return leaderboard(store.folder)


class Shown(NamedTuple):
    """A board as it was printed."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def boards(text: str) -> Iterator[Shown]:
    """Yield the boards of a text: a column is where its heading is, or where its cells are."""
    for block in text.rstrip("\n").split("\n\n"):
        lines = block.splitlines()
        if "--csv" in lines[0]:
            continue
        at = next(number for number, line in enumerate(lines) if line.startswith("rank "))
        heads = re.split(r"  +", lines[at])
        rows = [dict(zip(heads, re.split(r"  +", line.strip()), strict=False)) for line in lines[at + 1 :]]
        yield Shown(" ".join(lines[:at]), tuple(heads), tuple(row for row in rows if len(row) > 1))


class TestWhatIsShown:
    def test_all_of_it_where_there_is_room(self, frame: pd.DataFrame) -> None:
        (board,) = boards(printed(frame, width=200))
        assert board.title == "digits, 10 test images, linf 0.1"
        assert board.headings == (
            *("rank", "model", "clean %", "robust %", "95 % interval", "checks", "pgd-20", "autoattack"),
            *("loss", "arch", "params", "seconds", "no rank for want of"),
        )
        alpha, beta, gamma = board.rows
        assert list(alpha.values()) == [
            *("1", "alpha", "90.00", "50.00", "23.7 to 76.3", "PASS", "50.00", "50.00"),
            *("gkl", "tiny-cnn", "1,234", "3.0"),
        ]
        assert list(beta.values())[-5:] == ["-", "gkl", "tiny-cnn", "1,234", "1.5"]  # no AutoAttack
        assert list(gamma.values())[::11] == ["-", "1.5"]
        assert list(gamma.values())[-1] == "checks fail: some-check"

    def test_figures_end_where_their_heading_ends(self, frame: pd.DataFrame) -> None:
        _, head, *rows = printed(frame, width=200).splitlines()
        end = head.index("robust %") + len("robust %")
        assert [row[end - 5 : end] for row in rows if row[4:6] == "  "] == ["50.00", "60.00", "70.00"]

    def test_tiers_are_marked_and_one_alone_is_in_the_title(self, frame: pd.DataFrame, large: pd.DataFrame) -> None:
        lines = printed(frame, width=200).splitlines()
        assert [line for line in lines[2:] if "  " not in line] == ["tier autoattack", "tier gradient", "no rank"]
        small, _ = boards(printed(large, width=200))
        assert small.title == f"{FILE}, 1,000 test images, linf 2/255, tier autoattack"

    def test_rows_in_another_order_have_their_tier_in_a_column(self, large: pd.DataFrame) -> None:
        for width in (60, 200):
            text = printed(large.sort_values("worst_case_acc", ascending=False), width=width)
            *_, several = boards(text)
            assert [row["tier"] for row in several.rows[1:3]] == ["other", "gradient"]
            assert not re.search("^(tier|no rank$)", text, flags=re.MULTILINE)  # nothing stands under a wrong name

    def test_the_only_split_is_in_the_title(self, store: ResultStore) -> None:
        make_record(store, outcome(stands=5), split="train")
        (board,) = boards(printed(leaderboard(store.folder), width=80))
        assert board.title == "digits, 5 train images, linf 0.1, tier gradient"

    def test_sample_sets_of_one_size_are_told_apart(self, store: ResultStore) -> None:
        for samples in ("some", "others"):
            make_record(store, outcome(stands=5), samples=samples)
        titles = {board.title for board in boards(printed(leaderboard(store.folder), width=80))}
        assert len(titles) == 2
        assert all(re.search(r"5 test images \([0-9a-f]{8}\), linf", title) for title in titles)

    def test_clean_accuracy_has_no_robust_accuracy(self, store: ResultStore) -> None:
        make_record(store, outcome(stands=8, wrong=2), attacks=("none",), eps="0")
        (board,) = boards(printed(leaderboard(store.folder), width=80))
        assert board.title == "digits, 10 test images, clean"
        assert "robust %" not in board.headings
        assert board.rows[0]["clean %"] == "80.00"

    def test_families_over_seeds(self, store: ResultStore) -> None:
        for seed in (0, 1):
            make_record(store, outcome(stands=50 + seed, broken=50 - seed), model=f"net-{seed}", train_seed=seed)
        (board,) = boards(printed(leaderboard(store.folder, average_seeds=True), width=80))
        assert board.rows[0]["spread"] == "0.71"
        assert board.rows[0]["seeds"] == "2"

    def test_published_rows_stand_on_our_largest_board(self, store: ResultStore) -> None:
        for n in (10, 100):
            broken = outcome(stands=n // 2, broken=n // 2, by="apgd-ce")
            make_record(store, broken, dataset="cifar10", eps="8/255", attacks=("autoattack",), model="ours")
        text = printed(with_published(leaderboard(store.folder)), width=100)
        small, big = (board for board in boards(text))
        assert [row["model"] for row in small.rows] == ["ours"]
        assert big.title == "cifar10, 100 test images, linf 8/255, tier autoattack"
        assert len(big.rows) > 50
        assert "published: measured elsewhere, on 10,000 images; without a rank" in text

    def test_corruptions(self) -> None:
        values = (1, "net", "gkl", "tiny", "CIFAR-10-C", 1000, 15, 71.5, 70.0, 73.0, 80, 75, 70, 65, 60, 1234, 9.0)
        (board,) = boards(printed(pd.DataFrame([dict(zip(COLUMNS, values, strict=True))]), width=80))
        assert board.title == "CIFAR-10-C, 1,000 images, 15 corruptions"
        assert board.headings[:4] == ("rank", "model", "mean %", "95 % interval")

    def test_what_looks_like_markup_is_shown_and_what_steers_a_terminal_is_not(self, store: ResultStore) -> None:
        make_record(store, outcome(stands=1), dataset="npz:[red]x[/red].npz", model="[b]bold[/b]\x1b[31m\nmore")
        text = printed(leaderboard(store.folder), width=200)
        assert "npz:[red]x[/red].npz" in text
        assert "[b]bold[/b]\ufffd[31m\ufffdmore" in text

    def test_an_empty_leaderboard_prints_nothing(self, store: ResultStore) -> None:
        store.prepare()
        assert printed(leaderboard(store.folder), width=200) == ""


class TestMarks:
    def test_the_best_of_the_strongest_tier_is_bold_ties_too(self, frame: pd.DataFrame) -> None:
        text = printed(frame, width=200, colour=True)
        alpha, beta, gamma = (next(line for line in text.splitlines() if name in line) for name in frame["model"])
        assert "\x1b[1m50.00\x1b[0m" in alpha
        assert alpha.count("\x1b[1m") == 2
        assert "\x1b[1m90.00\x1b[0m" in alpha
        assert "\x1b[1m90.00\x1b[0m" in beta  # the same clean accuracy
        assert beta.count("\x1b[1m") == 1  # its 60 % stand after PGD alone
        assert "\x1b[1m" not in gamma  # nothing that it says can be believed

    def test_rows_without_a_rank_are_grey_with_the_reason(self, frame: pd.DataFrame) -> None:
        lines = printed(frame, width=80, colour=True).splitlines()
        at = next(number for number, line in enumerate(lines) if "gamma" in line)
        assert "\x1b[2mgamma\x1b[0m" in lines[at]
        assert lines[at + 1] == "\x1b[2m      no rank for want of: checks fail: some-check\x1b[0m"

    def test_checks_are_coloured_and_without_colour_the_rest_stays(self, frame: pd.DataFrame) -> None:
        text = printed(frame, width=200, colour=True)
        for verdict, colour in (("PASS", 32), ("WARN", 33), ("FAIL", 31)):
            assert f"\x1b[{colour}m{verdict}" in text
        plain = printed(frame, width=200, colour=True, no_color=True)
        assert not re.search(r"\x1b\[[\d;]*3\dm", plain)
        assert "\x1b[1m50.00\x1b[0m" in plain


class TestLittleRoom:
    @pytest.mark.parametrize("order", ["ranked", "sorted"])
    def test_no_name_and_no_figure_is_broken_at_any_width(self, large: pd.DataFrame, order: str) -> None:
        frame = large if order == "ranked" else large.sort_values("clean_acc", kind="stable").iloc[::-1]
        tables = board_tables(frame)
        for width in range(60, 201):
            text = printed(tables, width=width)
            assert max(map(cell_len, text.splitlines())) <= width
            shown = list(boards(text))
            for board, (_, rows) in zip(shown, frame.groupby("threat", sort=False), strict=True):
                names = [row["model"] for row in board.rows]
                assert [row["robust %"] for row in board.rows] == [f"{value:.2f}" for value in rows["worst_case_acc"]]
                assert [row["clean %"] for row in board.rows] == [f"{value:.2f}" for value in rows["clean_acc"]]
                assert len(set(names)) == len(names)
                for name, whole in zip(names, rows["model"], strict=True):
                    assert re.fullmatch(".+".join(map(re.escape, name.split("…"))), whole)
                if {"tier"} | set(board.headings) > {"rank", "model", "clean %", "robust %", "tier"}:
                    assert names == rows["model"].tolist()  # nothing is cut while a column could go

    def test_attacks_go_first_and_columns_come_back_in_one_order(self, large: pd.DataFrame) -> None:
        attacks = {"pgd-20", "fgsm", "autoattack"}
        before: list[set[str]] = [set(), set()]
        tables = board_tables(large)
        for width in range(60, 260):
            for number, board in enumerate(boards(printed(tables, width=width))):
                heads = set(board.headings) - {"no rank for want of"}
                assert before[number] <= heads
                before[number] = heads
                if any(name in attacks or name.startswith("after ") for name in heads):
                    assert {"loss", "arch", "params", "seconds", "engine", "95 % interval", "certified 95 %"} <= heads

    def test_what_is_hidden_is_one_line(self, frame: pd.DataFrame, large: pd.DataFrame) -> None:
        assert "hidden" not in printed(frame, width=200)
        *_, last = printed(frame, width=80).splitlines()
        assert last == "3 columns hidden (pgd-20, autoattack, seconds): --csv or a wider terminal"
        *_, last = printed(large, width=60).splitlines()
        assert re.fullmatch(r"\d+ columns hidden, names cut: --csv or a wider terminal", last)

    def test_every_reason_is_told_at_any_width(self, large: pd.DataFrame) -> None:
        for width in (60, 80, 100, 140, 300):
            told = " ".join(printed(large, width=width).split())
            assert told.count("a complete attack (autoattack stopped early)") == 2
            assert told.count("checks fail: gradients") == 2

    def test_a_line_that_is_no_terminal_has_all_of_it(
        self, large: pd.DataFrame, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from robustbench_gkl.report.terminal import make_console

        print_leaderboard(large, make_console())
        out = capsys.readouterr().out
        assert "…" not in out
        assert "hidden" not in out
        assert all(out.count(name) == 2 for name in SEEDS)
        assert not [line for line in out.splitlines() if line != line.rstrip()]

    def test_long_names_differ_where_they_are_cut(self, store: ResultStore) -> None:
        for place, word in enumerate(("alpha", "beta", "gamma")):
            broken = outcome(stands=7 - place, broken=3 + place)
            make_record(store, broken, model=f"{'the-same-beginning-' * 5}{word}{'-and-the-same-end' * 5}")
        (board,) = boards(printed(leaderboard(store.folder), width=60))
        for row, word in zip(board.rows, ("alpha", "beta", "gamma"), strict=True):
            assert re.fullmatch(f"the-same-.*….*{word}-and-the-.*…", row["model"])


@pytest.mark.parametrize("width", [120, 240])
def test_a_very_long_name_takes_no_columns_from_the_others(width: int, store: ResultStore) -> None:
    for model in ("short", f"{'long-' * 40}end"):
        make_record(store, outcome(stands=5, broken=5), model=model)
    lines = printed(leaderboard(store.folder), width=width).splitlines()
    assert {"95 % interval", "checks"} <= set(re.split(r"  +", lines[1]))
    assert ("pgd-20" in lines[1]) == (width == 240)
    assert re.search(r"long-long.*….*-end", "\n".join(lines))
    assert max(map(cell_len, lines)) <= width
    assert lines[-1].endswith("names cut: --csv or a wider terminal")


def test_what_the_terminal_cannot_encode_is_a_question_mark(store: ResultStore) -> None:
    make_record(store, outcome(stands=5, broken=5), model="网络-28")
    command = [sys.executable, "-m", "robustbench_gkl", "leaderboard", "--results-dir", str(store.folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "   1  ??-28  " in done.stdout
