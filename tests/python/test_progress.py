"""What calls from Python show: nothing in a pipe unless asked, a bar on a terminal and in a notebook."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from broken_models import digits, digits_model

import robustbench_gkl as gkl

SAMPLES = digits(8)
FEW = {"epochs": 2, "train_size": 64, "attack.steps": 1, "probe.steps": 1}


def evaluate(**options: Any) -> None:
    gkl.evaluate(digits_model("trades"), SAMPLES.images, SAMPLES.labels, ("linf", "0.1"), "pgd:steps=5", **options)


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns what was written to standard error; nothing may be written to standard output."""
    digits_model("trades")
    capsys.readouterr()

    def read() -> str:
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return read


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The outputs of a cell of a notebook, each with what it shows now; ipywidgets are not there."""
    outputs: list[dict[str, str]] = []

    class Handle:
        def __init__(self, shown: Any) -> None:
            self.place = len(outputs)
            outputs.append({})
            self.update(shown)

        def update(self, shown: Any) -> None:
            outputs[self.place] = shown._repr_mimebundle_(include=[], exclude=[])

    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    display.display = lambda shown, display_id=False: Handle(shown)  # type: ignore[attr-defined]
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    return outputs


class TestTraining:
    def test_a_pipe_stays_quiet(self, errors: Any, tmp_path: Path) -> None:
        rows = gkl.train("digits-trades", tmp_path / "quiet", changes=FEW)
        assert errors() == ""
        assert repr(rows).startswith("Training(quiet, 2 epochs: on validation images clean ")
        assert rows.run.load_model().num_classes == 10

    def test_lines_in_a_pipe_if_asked(self, errors: Any, tmp_path: Path) -> None:
        gkl.train("digits-trades", "told", checkpoints_dir=tmp_path, changes=FEW, progress=True)
        note, *epochs = errors().splitlines()
        assert note.startswith("batch_size is 64")
        assert [line.split()[:2] for line in epochs] == [["epoch", "1/2"], ["epoch", "2/2"]]
        assert (tmp_path / "told" / "config.json").exists()

    def test_epochs_in_a_notebook(self, errors: Any, cell: list[dict[str, str]], tmp_path: Path) -> None:
        gkl.train("digits-trades", tmp_path / "shown", changes=FEW)
        assert errors() == ""
        output, note = cell
        assert "batch_size is 64" in note["text/html"]
        assert "val pgd" in output["text/html"]
        assert len(output["text/plain"].splitlines()) >= 3

    def test_settings_without_an_effect_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(gkl.core.errors.UserError, match=r"attack\.steps"):
            gkl.train("digits-standard", tmp_path / "idle", changes={"attack.steps": 3})


class TestEvaluation:
    def test_a_pipe_stays_quiet(self, errors: Any) -> None:
        evaluate()
        assert errors() == ""

    def test_a_bar_on_a_terminal(self, errors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        evaluate()
        assert "fallen" in errors()
        evaluate(progress=False)
        assert errors() == ""

    def test_a_bar_in_a_notebook_goes_at_the_end(self, errors: Any, cell: list[dict[str, str]]) -> None:
        seen: list[str] = []
        evaluate(on_progress=lambda event: seen.append(cell[0]["text/plain"]))
        assert any("7 standing, robust accuracy at most" in text for text in seen)
        assert [output["text/plain"].strip() for output in cell] == [""]
        assert errors() == ""
