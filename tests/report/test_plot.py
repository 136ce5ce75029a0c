"""Figures in one call: the numbers that they show, and what is refused in a line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from report_samples import save_many
from small_net import SmallNet, labelled_images

import robustbench_gkl as gkl
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation import Evaluation
from robustbench_gkl.report import content, figures
from robustbench_gkl.report.boards import boards_of
from robustbench_gkl.report.scatter import clean_against_robust
from robustbench_gkl.results import ResultStore
from robustbench_gkl.runs import Run

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return save_many(tmp_path_factory.mktemp("many") / "results", seeds=1, eps=("4/255", "8/255"), n=100)


def evaluated(eps: str = "8/255") -> Evaluation:
    model = SmallNet()
    return gkl.evaluate(model, *labelled_images(40, model=model), ("linf", eps), ["square:queries=200", "fgsm"])


def numbers(trace: Any, axis: str) -> list[float]:
    return [float(value) for value in trace[axis]]


class TestTradeoff:
    def test_a_folder_its_board_and_the_report_show_the_same(self, store: ResultStore) -> None:
        frame = gkl.leaderboard(store.folder)
        small, large = (clean_against_robust(board, links={}) for board in boards_of(frame))
        assert small is not None
        assert large is not None
        drawn = gkl.plot.tradeoff(store.folder)
        assert drawn.layout.title.text == small.label
        assert drawn.to_plotly_json()["data"] == gkl.plot.tradeoff(frame).to_plotly_json()["data"]
        other = gkl.plot.tradeoff(str(store.folder), board=large.label)
        assert [numbers(trace, "y") for trace in other.data] == [trace["y"] for trace in large.data]
        assert other.layout.meta["alt"] == large.alt

    def test_evaluations_are_points(self) -> None:
        results = {"one": evaluated(), "other": evaluated()}
        (trace,) = gkl.plot.tradeoff(results).data
        assert [text.split("<br>")[0] for text in trace.hovertext] == ["<b>one</b>", "<b>other</b>"]
        assert numbers(trace, "x") == [results["one"].clean_acc] * 2
        assert numbers(trace, "y") == pytest.approx([results["one"].robust_acc] * 2)

    def test_an_unknown_board(self, store: ResultStore) -> None:
        with pytest.raises(UserError, match=r"unknown board 'cifar10'.*'cifar10, linf 4/255'; 'cifar10, linf 8/255'"):
            gkl.plot.tradeoff(store.folder, board="cifar10")


class TestCurve:
    def test_over_radii(self, store: ResultStore) -> None:
        drawn = gkl.plot.curve(store.folder)
        assert len(drawn.data) == 5
        assert numbers(drawn.data[0], "x") == [0, 4 / 255, 8 / 255]
        results = [evaluated(eps) for eps in ("2/255", "8/255")]
        (trace,) = gkl.plot.curve(results).data
        assert numbers(trace, "y") == pytest.approx(
            [results[0].clean_acc, results[0].robust_acc, results[1].robust_acc]
        )

    def test_over_epochs(self, tmp_path: Path) -> None:
        rows = [{"epoch": 1.0, "loss": 2.0, "val_clean_acc": 30.0}, {"epoch": 2.0, "loss": 1.0, "val_clean_acc": 40.0}]
        run = Run(tmp_path / "mine")
        run.folder.mkdir()
        (run.folder / "config.json").write_text("{}")
        with pytest.raises(UserError, match=r"no .*metrics\.csv yet"):
            gkl.plot.curve(run)
        run.save_metrics(rows)
        for what in (rows, run, run.folder, "mine", run.metrics()):
            (trace,) = gkl.plot.curve(what, checkpoints_dir=tmp_path).data
            assert numbers(trace, "y") == [30, 40]
        (trace,) = gkl.plot.curve("mine", of="loss", checkpoints_dir=tmp_path).data
        assert numbers(trace, "y") == [2, 1]

    def test_what_is_no_run_is_refused(self, store: ResultStore, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"'mien' is neither a run in .* nor a results folder"):
            gkl.plot.curve("mien", checkpoints_dir=tmp_path)
        with pytest.raises(UserError, match="draws the curves of a training"):
            gkl.plot.curve(store.folder, of="loss")
        for metrics in ([{"loss": 1.0}], gkl.leaderboard(store.folder)):
            with pytest.raises(UserError, match=r"have a column epoch.*; got .*loss"):
                gkl.plot.curve(metrics)
        with pytest.raises(UserError, match="of must be 'accuracy' or 'loss', got 'los'"):
            gkl.plot.curve([{"epoch": 1.0, "loss": 2.0}], of="los")  # type: ignore[arg-type]


class TestWaterfall:
    def test_one_model_falls_by_stages(self) -> None:
        result = evaluated()
        (trace,) = gkl.plot.waterfall(result).data
        stages = [stage.name for attack in result.attacks for stage in attack.stages]
        fallen = [(result.broken_by == name).sum() for name in ("clean", *stages)]
        assert min(fallen) > 0
        expected = [40, *(-count for count in fallen), result.standing.sum()]
        assert numbers(trace, "y") == [round(100 * count / 40, 3) for count in expected]

    def test_several_models_are_bars(self, store: ResultStore) -> None:
        drawn = gkl.plot.waterfall(store.folder)
        assert {trace.type for trace in drawn.data} == {"bar"}
        name = "gkl-preact-resnet18-seed0"
        (one,) = gkl.plot.waterfall(store.folder, model=name).data
        mine = [record for record in store.records() if record.model.name == name]
        (record,) = next(iter(content.by_setting(mine).values()))
        assert numbers(one, "y") == figures.waterfall("x", content.falls(record)).data[0]["y"]
        with pytest.raises(UserError, match="unknown model 'gkl-preact-resnet18-seed1'; did you mean"):
            gkl.plot.waterfall(store.folder, model="gkl-preact-resnet18-seed1")

    def test_evaluations_that_share_a_name_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"two evaluations of 'SmallNet' on .* linf 8/255, .*; give a mapping"):
            gkl.plot.waterfall([evaluated(), evaluated()])


def test_something_else_is_refused() -> None:
    with pytest.raises(UserError, match="expected a results folder, records or evaluations, got int"):
        gkl.plot.tradeoff(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing to draw"):
        gkl.plot.waterfall([])


def test_a_missing_extra_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setattr("robustbench_gkl.report.assets.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"figures need plotly; install with: pip install 'gklbench\[report\]'"):
        gkl.plot.curve([{"epoch": 1.0, "loss": 1.0}], of="loss")
