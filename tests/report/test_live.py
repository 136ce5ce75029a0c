"""Displays on a terminal, and the lines in their place elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from robustbench_gkl.report.live import LiveProgress
from robustbench_gkl.report.suite_display import SuiteDisplay


class TestProgress:
    def test_plain_lines_off_a_terminal(self) -> None:
        buffer = io.StringIO()
        with LiveProgress(Console(file=buffer, width=200), interval=0) as progress:
            progress.update("pgd-20", 250, 1000, note="at most 51.20 %")
            progress.update("epoch [1/2]", 3, 8)
            progress.line("epoch 1 [done]")
        assert buffer.getvalue().splitlines() == [
            "pgd-20: 250/1000 at most 51.20 %",
            "epoch [1/2]: 3/8",
            "epoch 1 [done]",
        ]

    def test_plain_lines_are_an_interval_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr("robustbench_gkl.report.live.time.monotonic", lambda: now)
        buffer = io.StringIO()
        with LiveProgress(Console(file=buffer, width=200), interval=10) as progress:
            for second in range(25):
                now = float(second)
                progress.update("pgd", second, 25)
        assert buffer.getvalue().splitlines() == ["pgd: 10/25", "pgd: 20/25"]

    def test_a_bar_on_a_terminal(self) -> None:
        buffer = io.StringIO()
        with LiveProgress(Console(file=buffer, force_terminal=True, width=120, legacy_windows=False)) as progress:
            for done in range(1, 4):
                progress.update("pgd[20]", done, 3, note="robust [x]")
            progress.line("a line that stays")
        text = buffer.getvalue()
        assert "pgd[20]" in text
        assert "robust [x]" in text
        assert "3/3" in text
        assert "a line that stays" in text


COUNTS = {"done": 3, "running": 1, "waiting": 6}
FAILED = SimpleNamespace(status="failed", exit_code=2, seconds=61.0, lines=("one", "two", "three", "Error: [why]"))


class TestSuite:
    def test_plain_lines_off_a_terminal(self) -> None:
        buffer = io.StringIO()
        with SuiteDisplay(Console(file=buffer, width=200), lambda: COUNTS) as display:
            display.begun("train a[0]")
            display.tick(lambda: [("train a[0]", 1.0, "epoch 1")], left=lambda: 90.0)
            display.ended("train a[0]", FAILED)
            display.line(display.summary())
        assert buffer.getvalue().splitlines() == [
            "[ 3/10] begin train a[0]",
            "[ 3/10] FAIL  train a[0] in 0:01:01 with exit code 2",
            "    two",
            "    three",
            "    Error: [why]",
            "10 cells: 3 done, 1 running, 6 waiting",
        ]

    def test_what_runs_is_drawn_on_a_terminal(self) -> None:
        buffer = io.StringIO()
        console = Console(file=buffer, force_terminal=True, width=120, legacy_windows=False)
        with SuiteDisplay(console, lambda: COUNTS) as display:
            display.begun("train a[0]")
            display.tick(lambda: [("train a[0]", 5.0, "epoch [1/2]")], left=lambda: 90.0)
        text = buffer.getvalue()
        assert "train a[0]" in text
        assert "epoch [1/2]" in text
        assert "0:01:30 left" in text
