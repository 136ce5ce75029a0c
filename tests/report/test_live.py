"""Displays on a terminal, and the lines in their place elsewhere."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from robustbench_gkl.report.live import LiveProgress
from robustbench_gkl.report.suite_display import SuiteDisplay
from robustbench_gkl.report.training_display import TrainingDisplay


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

    def test_plain_lines_on_a_terminal_that_cannot_move_its_cursor(self) -> None:
        buffer = io.StringIO()
        console = Console(file=buffer, force_terminal=True, width=200, _environ={"TERM": "dumb"})
        with LiveProgress(console, interval=0) as progress:
            progress.update("pgd-20", 250, 1000)
            assert buffer.getvalue() == "pgd-20: 250/1000\n"

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


def drawn(buffer: io.StringIO) -> list[str]:
    """Return the lines of a terminal without colours and without what moves its cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", buffer.getvalue().replace("\r", "\n")).splitlines()


SHOWN = ("train_clean_acc", "train_robust_acc", "grad_norm", "val_clean_acc", "val_robust_acc", "images_per_second")
TITLES = ("loss", "train clean", "train pgd", "grad norm", "val clean", "val pgd", "images/s")
LONG = "apgd-t:steps=100,restarts=1,targets=9,objective=dlr"


@pytest.mark.parametrize("width", [60, 80, 100])
def test_bar_count_and_time_left_stay_whole(width: int) -> None:
    console = Console(file=(buffer := io.StringIO()), force_terminal=True, width=width, legacy_windows=False)
    note = "12,345 fallen, 54,321 standing, robust accuracy at most 54.32 %, 123,456 model calls/s"
    with LiveProgress(console) as progress:
        progress.update(LONG, 5000, 5000, note=note, seconds_left=3723)
    with TrainingDisplay(console, interval=0) as training:
        row = dict.fromkeys(("epoch", "lr", "eps", "loss", "loss_ce", *SHOWN), 12.345)
        training.epoch(row, epochs=100, seconds_left=3723, warning=None)
        means = {"loss": 12.5, "loss_ce": 2.5, "loss_robust": 9.5, "train_clean_acc": 50.0, "train_robust_acc": 40.0}
        training.step(epoch=99, epochs=100, step=390, steps=391, seconds_left=3723, means=lambda: means)
    with SuiteDisplay(console, lambda: COUNTS) as suite:
        suite.tick(lambda: [(f"eval {LONG}", 5.0, note)], left=lambda: 3723.0)
    lines = drawn(buffer)
    assert max(map(len, lines)) <= width
    for whole in ("5000/5000  1:02:03 left", "step 390/391  1:02:03 left", "3/10  1:02:03 left"):
        (line,) = {line.rstrip() for line in lines if line.rstrip().endswith(whole)}
        assert sum(map(line.count, "━╸╺")) >= 8, line
    (head,) = {line.strip() for line in lines if line.startswith("epoch ") and "pgd" in line}
    assert {"epoch", "val pgd"} <= set(re.split("  +", head)) <= {"epoch", "lr", "eps", "ce", *TITLES}


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
