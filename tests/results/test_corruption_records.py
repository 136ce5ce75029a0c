"""Mean corruption accuracy, its interval and its leaderboard."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.report.corruptions import corruption_table
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.corruptions import (
    COLUMNS,
    CorruptionData,
    CorruptionRecord,
    Counts,
    corruption_id,
    corruption_leaderboard,
)
from robustbench_gkl.results.record import ModelInfo

FOG: Counts = (100, 90, 80, 50, 10)


def record(name: str, correct: dict[str, Counts], *, data: str = "a" * 64, n: int = 100) -> CorruptionRecord:
    return CorruptionRecord(
        id=corruption_id(name=name, model_sha256=name, data_sha256=data),
        created="2026-01-01T00:00:00+00:00",
        model=ModelInfo(name=name, arch="tiny-cnn", params=3, weights_sha256=name),
        data=CorruptionData(dataset="CIFAR-10-C", sha256=data, n=n),
        correct=correct,
        batch_size=250,
        seconds=1.5,
        environment={},
    )


def test_a_file_from_elsewhere_forges_nothing_that_is_shown() -> None:
    made = record("one\x1b[31m\u202e", {"[red]fog": FOG})
    found = CorruptionRecord.read(made.text().encode(), what="x.json")
    assert found.model.name == "one\ufffd[31m\ufffd"
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as captured:
        console.print(corruption_table(found))
    assert "[red]fog" in captured.get()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"dataset": "CIFAR-10-C", "sha256": "a", "n": 0}}, "greater than or equal to 1"),
        ({"correct": {}}, "at least 1 item"),
        ({"correct": {"fog": [101, 0, 0, 0, 0]}}, r"fog has counts outside 0\.\.100"),
        ({"correct": {"fog": [-1, 0, 0, 0, 0]}}, r"fog has counts outside 0\.\.100"),
    ],
)
def test_counts_that_cannot_be_are_refused(change: dict[str, object], says: str) -> None:
    values = json.loads(record("one", {"fog": FOG}).text()) | change
    with pytest.raises(UserError, match=f"x.json is broken.*{says}"):
        CorruptionRecord.read(json.dumps(values).encode(), what="x.json")


def test_the_mean_is_over_the_common_corruptions() -> None:
    made = record("one", {"fog": FOG, "snow": (50, 50, 50, 50, 50), "spatter": (0, 0, 0, 0, 0)})
    assert made.counted == ("fog", "snow")
    assert made.accuracy("fog", 2) == 90
    assert made.severity_acc(5) == 30
    assert made.mean_corruption_acc == pytest.approx((330 / 5 + 50) / 2)
    assert record("two", {"spatter": FOG}).counted == ("spatter",)


@pytest.mark.parametrize(("together", "at_least"), [(True, 0.93), (False, 0.99)])
def test_the_interval_covers(together: bool, at_least: float) -> None:
    generator = np.random.default_rng(0)
    n, chance, covered = 1000, 0.7, 0
    for _ in range(1000):
        if together:
            counts = [int(generator.binomial(n, chance))] * 5
        else:
            counts = generator.binomial(n, chance, 5).tolist()
        low, high = record("one", {"fog": (counts[0], counts[1], counts[2], counts[3], counts[4])}, n=n).interval()
        covered += low <= 100 * chance <= high
    assert covered / 1000 >= at_least


def test_the_leaderboard_ranks_only_the_same_images(tmp_path: Path) -> None:
    store = ResultStore(tmp_path).corruptions
    store.prepare()
    for made in (
        record("low", {"fog": (10, 10, 10, 10, 10)}),
        record("high", {"fog": FOG}),
        record("tied", {"fog": FOG}),
        record("elsewhere", {"fog": (1, 1, 1, 1, 1)}, data="b" * 64, n=10),
    ):
        store.save(made)
        assert store.load(made.id) == made
    table = corruption_leaderboard(tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert table["model"].tolist() == ["high", "tied", "low", "elsewhere"]
    assert table["rank"].tolist() == [1, 1, 3, 1]
    assert table["mean_corruption_acc"].tolist() == [66, 66, 10, 10]
    assert table["severity_4"].tolist() == [50, 50, 10, 10]
    assert (table["ci_low"] < table["mean_corruption_acc"]).all()
    assert (table["ci_high"] > table["mean_corruption_acc"]).all()
    assert corruption_leaderboard(tmp_path, dataset="CIFAR-100-C").empty


def test_broken_records_are_passed_by(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="gklbench corruptions"):
        corruption_leaderboard(tmp_path)
    (tmp_path / "corruptions").mkdir()
    assert corruption_leaderboard(tmp_path).empty
    (tmp_path / "corruptions/x.json").write_text("{")
    assert corruption_leaderboard(tmp_path).empty
    assert "x.json is broken" in caplog.text
    with pytest.raises(UserError, match="broken"):
        corruption_leaderboard(tmp_path, strict=True)
