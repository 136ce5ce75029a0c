"""Tables, settings and progress as people see them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from synthetic_records import make_record, outcome

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.report.live import LiveProgress
from robustbench_gkl.report.terminal import leaderboard_table, listing_lines, make_console, settings_lines
from robustbench_gkl.results import ResultStore, leaderboard


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    store = ResultStore(tmp_path)
    for model, verdict in (("alpha", "PASS"), ("beta", "WARN"), ("gamma", "FAIL")):
        make_record(store, outcome(stands=5, broken=4, wrong=1), model=model, verdict=verdict)  # type: ignore[arg-type]
        if model == "alpha":
            make_record(store, outcome(stands=5, broken=4, wrong=1, by="square"), model=model, attacks=("autoattack",))
    return leaderboard(tmp_path)


def rendered(frame: pd.DataFrame, *, width: int, colour: bool = False) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=colour, color_system="standard" if colour else None)
    console.print(leaderboard_table(frame, width=width))
    return buffer.getvalue()


class TestTable:
    def test_everything_is_there_on_200_columns(self, frame: pd.DataFrame) -> None:
        head, *rows = rendered(frame, width=200).splitlines()
        assert head.split() == list(frame)
        assert len(rows) == len(frame)
        by_model = {row.split()[1]: row.split() for row in rows}
        assert by_model["alpha"] == [
            *("1", "alpha", "gkl", "tiny-cnn", "digits", "linf", "0.1", "10", "90.00", "50.00", "50.00", "50.00"),
            *("23.66", "76.34", "PASS", "1234", "3.0", "autoattack"),
        ]
        assert rows[-1].endswith("checks fail: some-check")
        assert by_model["gamma"][0] == "-"  # not ranked
        assert by_model["beta"][10] == "-"  # no AutoAttack

    def test_figures_end_where_their_heading_ends(self, frame: pd.DataFrame) -> None:
        head, *rows = rendered(frame, width=200).splitlines()
        end = head.index("worst_case_acc") + len("worst_case_acc")
        assert {row[end - 5 : end] for row in rows} == {"50.00"}

    def test_checks_are_coloured(self, frame: pd.DataFrame) -> None:
        text = rendered(frame, width=200, colour=True)
        for verdict, colour in (("PASS", 32), ("WARN", 33), ("FAIL", 31)):
            assert f"\x1b[{colour}m{verdict}" in text

    @pytest.mark.parametrize("width", [140, 120, 100, 80])
    def test_a_narrow_terminal_gets_fewer_columns_and_whole_cells(self, frame: pd.DataFrame, width: int) -> None:
        text = rendered(frame, width=width)
        head, *rest = text.splitlines()
        rows = rest[: len(frame)]
        kept = head.split()
        assert {"rank", "model", "clean_acc", "worst_case_acc", "checks", "tier"} <= set(kept) < set(frame)
        assert max(map(len, text.splitlines())) <= width
        for name, row in zip(frame["model"], rows, strict=True):
            assert str(name) in row
            assert "50.00" in row
        caption = " ".join(" ".join(rest[len(frame) :]).split())
        assert caption.startswith("no room here for params")
        assert all(str(name) in caption for name in set(frame) - set(kept))

    def test_what_tells_boards_apart_and_what_a_model_lacks_stays(self, tmp_path: Path) -> None:
        store = ResultStore(tmp_path)
        for eps in ("1/255", "2/255"):
            make_record(store, [None] * 9, attacks=("pgd-20", "fgsm"), eps=eps)
            make_record(store, [None] * 9, model="half[b]", attacks=("pgd-20", "fgsm"), eps=eps, partial=True)
        text = rendered(leaderboard(tmp_path), width=80)
        head, *rows = text.splitlines()
        assert {"threat", "tier"} <= set(head.split())
        assert "n" not in head.split()
        assert [row.split()[3] for row in rows[:4]] == ["1/255", "1/255", "2/255", "2/255"]
        told = " ".join(" ".join(rows[4:]).split())
        assert told.count("half[b] has no rank for want of: a complete attack (fgsm stopped early)") == 2

    def test_a_very_narrow_one_folds_and_loses_nothing(self, frame: pd.DataFrame) -> None:
        text = rendered(frame, width=40)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 40

    def test_what_looks_like_markup_is_shown_as_it_is(self, tmp_path: Path) -> None:
        store = ResultStore(tmp_path)
        make_record(store, outcome(stands=1), dataset="npz:[red]x[/red].npz", model="[b]bold[/b]")
        text = rendered(leaderboard(tmp_path), width=200)
        assert "npz:[red]x[/red].npz" in text
        assert "[b]bold[/b]" in text

    def test_an_empty_board(self, tmp_path: Path) -> None:
        (tmp_path / "records").mkdir()
        assert rendered(leaderboard(tmp_path), width=200).split()[:2] == ["rank", "model"]


class TestSettings:
    def test_nested_keys(self) -> None:
        values: dict[str, Any] = {
            "loss": "gkl",
            "threat": {"norm": "linf", "eps": "8/255"},
            "mean": None,
            "options": {},
        }
        assert settings_lines(values) == ["loss = gkl", "threat.norm = linf", "threat.eps = 8/255"]

    def test_of_a_configuration(self) -> None:
        lines = settings_lines(TrainConfig().model_dump(mode="json"))
        assert "threat.eps = 8/255" in lines
        assert "optimizer.lr = 0.1" in lines
        assert not any("None" in line for line in lines)


class TestConsole:
    def test_off_a_terminal_no_line_is_broken(self, capsys: pytest.CaptureFixture[str]) -> None:
        make_console().print("word " * 150)
        assert capsys.readouterr().out.count("\n") == 1

    def test_a_quiet_one_is_silent(self, capsys: pytest.CaptureFixture[str]) -> None:
        console = make_console(quiet=True)
        console.print("nothing")
        with LiveProgress(console, interval=0) as progress:
            progress.update("pgd", 1, 2)
            progress.line("nothing")
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", [80, 100, 160, 1000])
def test_a_list_fits_its_terminal_and_is_a_line_a_name_elsewhere(width: int) -> None:
    rows = [("short", ""), ("a-long-name-of-thirty-letters-x", "word " * 40 + "end"), ("other", "a summary")]
    lines = listing_lines(rows, width=width)
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == [word for name, summary in rows for word in (name, *summary.split())]
    assert [line.split()[0] for line in lines if line[0] != " "] == [name for name, _ in rows]
    assert (len(lines) == len(rows)) == (width == 1000)
