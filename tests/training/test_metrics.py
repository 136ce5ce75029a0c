from __future__ import annotations

import csv
import io
import sys
import types
from pathlib import Path

import pytest
import torch
from rich.console import Console

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.report.training_display import TrainingDisplay
from robustbench_gkl.runs.metrics import columns, csv_text
from robustbench_gkl.training.metrics import Means, TensorBoard

ROW = {
    "epoch": 2,
    "lr": 0.1,
    "eps": 8 / 255,
    "loss": 12.3456,
    "loss_ce": 2.0,
    "loss_robust": 10.3456,
    "train_clean_acc": 50.0,
    "train_robust_acc": 30.0,
    "grad_norm": 0.7,
    "val_clean_acc": 51.5,
    "val_robust_acc": 31.25,
    "seconds": 100.0,
    "images_per_second": 1234.5,
}


def test_means_are_those_of_the_steps() -> None:
    means = Means()
    assert means.read() == {}
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": torch.tensor(value), "grad_norm": torch.tensor(2 * value)})
    assert means.read() == {"loss": 3.0, "grad_norm": 6.0}


def test_csv_has_a_line_an_epoch() -> None:
    read = list(
        csv.DictReader(io.StringIO(csv_text([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 2.5, "eps": 0.1}])))
    )
    assert read == [{"epoch": "1", "loss": "3.0", "eps": ""}, {"epoch": "2", "loss": "2.5", "eps": "0.1"}]


def test_a_row_without_a_measurement_hides_no_column() -> None:
    rows = [{"epoch": 1, "val_clean_acc": 50.0, "seconds": 1.0}, {"epoch": 2, "seconds": 2.0}]
    assert columns(rows) == ["epoch", "val_clean_acc", "seconds"]
    assert csv_text(rows).splitlines() == ["epoch,val_clean_acc,seconds", "1,50.0,1.0", "2,,2.0"]


def test_tensorboard_gets_every_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            written.append((tag, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    with TensorBoard(tmp_path) as logger:
        logger.log(ROW)
    assert written == [*((key, value, 2) for key, value in ROW.items() if key != "epoch"), ("closed", 0, 0)]


def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoard(tmp_path) as logger:
        logger.log(ROW)
    assert list(tmp_path.glob("events.*"))


def test_without_tensorboard_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'gklbench\[tensorboard\]'"):
        TensorBoard(tmp_path)


def shown(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200)
    asked = []

    def means() -> dict[str, float]:
        asked.append(1)
        return {"loss": 12.0, "loss_ce": 2.0, "grad_norm": 0.5}

    with TrainingDisplay(console, interval=0.0) as display:
        display.step(epoch=0, epochs=3, step=5, steps=10, seconds_left=3661, means=means)
        display.epoch(ROW, epochs=3, seconds_left=60, warning="robust validation accuracy fell")
    assert asked == [1]
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_shows_what_a_run_is_judged_by(terminal: bool) -> None:
    text = shown(terminal=terminal)
    for part in (
        "epoch 1/3", "step 5/10", "1:01:01 left", "loss", "ce", "robust", "grad norm", "train clean", "train pgd",
        "val clean", "val pgd", "51.50", "31.25", "lr", "eps", "0.03137", "images/s", "1234", "0:01:00 left",
        "warning: robust validation accuracy fell",
    ):  # fmt: skip
        assert part in text, part


def test_running_means_are_asked_for_now_and_then_only() -> None:
    with TrainingDisplay(Console(file=io.StringIO()), interval=1000.0) as display:
        for step in range(5):
            display.step(
                epoch=0,
                epochs=1,
                step=step,
                steps=5,
                seconds_left=0,
                means=lambda: pytest.fail("waited for the device"),
            )
