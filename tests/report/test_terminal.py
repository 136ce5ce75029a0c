"""Lists, settings and progress as people see them."""

from __future__ import annotations

from typing import Any

import pytest

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.report.live import LiveProgress
from robustbench_gkl.report.terminal import listing_lines, make_console, settings_lines


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
