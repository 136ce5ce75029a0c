"""Leaderboards: who is ranked against whom, what is joined, and what the files say."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats
from synthetic_records import BrokenBy, make_record, outcome

from robustbench_gkl.errors import UserError
from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.export import markdown, save_table
from robustbench_gkl.results.record import Record

Add = Callable[..., Record]


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


@pytest.fixture
def add(store: ResultStore) -> Add:
    """Add the record of a model of which so many of 10 samples stand, ten times over so that differences show."""

    def add_record(model: str, stands: int = 5, broken_by: BrokenBy | None = None, **options: Any) -> Record:
        if broken_by is None:
            broken_by = outcome(stands=10 * stands, broken=90 - 10 * stands, wrong=10)
        return make_record(store, broken_by, model=model, **options)

    return add_record


def table(store: ResultStore, **filters: Any) -> pd.DataFrame:
    return leaderboard(store.folder, **filters)


def ranks(store: ResultStore) -> list[tuple[str, int | None]]:
    """Return the models in the order of the table, with their ranks."""
    frame = table(store)
    return [
        (name, None if pd.isna(rank) else int(rank)) for name, rank in zip(frame["model"], frame["rank"], strict=True)
    ]


class TestCells:
    def test_columns_are_those_of_the_design(self, store: ResultStore, add: Add) -> None:
        add("a", attacks=("autoattack",))
        add("b", attacks=("pgd-20", "autoattack"))
        leading = ["rank", "model", "loss", "arch", "dataset", "threat", "n", "clean_acc"]
        trailing = ["worst_case_acc", "ci_low", "ci_high", "checks", "params", "eval_seconds"]
        assert list(table(store)) == [*leading, "pgd-20", "autoattack", *trailing]

    def test_attacks_stand_in_a_natural_order(self, store: ResultStore, add: Add) -> None:
        attacks = ("square", "autoattack", "pgd-100", "pgd-20", "autoattack:version=rand", "fgsm", "pgd-20:restarts=5")
        add("a", attacks=attacks)
        columns = list(table(store))
        assert columns[8:-6] == [
            *("fgsm", "pgd-20", "pgd-20:restarts=5", "pgd-100", "square"),
            *("autoattack", "autoattack-rand"),
        ]

    def test_values(self, store: ResultStore, add: Add) -> None:
        broken_by = [None] * 7 + ["autoattack"] * 2 + ["pgd-20"] * 3 + ["clean"] * 1
        add("a", broken_by=broken_by, attacks=("pgd-20", "autoattack"), seconds=12.34)
        (row,) = table(store).to_dict("records")
        interval = stats.binomtest(7, 13).proportion_ci(0.95, method="wilson")
        assert row == {
            "rank": 1,
            "model": "a",
            "loss": "gkl",
            "arch": "tiny-cnn",
            "dataset": "digits",
            "threat": "linf 0.1",
            "n": 13,
            "clean_acc": round(1200 / 13, 2),
            "pgd-20": round(900 / 13, 2),
            "autoattack": round(700 / 13, 2),
            "worst_case_acc": round(700 / 13, 2),
            "ci_low": round(100 * interval.low, 2),
            "ci_high": round(100 * interval.high, 2),
            "checks": "PASS",
            "params": 1234,
            "eval_seconds": 12.3,
        }

    def test_types(self, store: ResultStore, add: Add) -> None:
        add("a")
        add("b", verdict="FAIL")
        frame = table(store)
        assert str(frame["rank"].dtype) == "Int64"
        assert frame["n"].dtype == frame["params"].dtype == "int64"
        assert frame["worst_case_acc"].dtype == "float64"


class TestRanks:
    def test_by_worst_case_accuracy(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 3), ("b", 8), ("c", 5)):
            add(model, stands)
        assert ranks(store) == [("b", 1), ("c", 2), ("a", 3)]

    def test_equals_share_a_rank_and_the_next_one_is_free(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 3), ("b", 8), ("c", 5), ("d", 5), ("e", 5), ("f", 2)):
            add(model, stands)
        assert ranks(store) == [("b", 1), ("c", 2), ("d", 2), ("e", 2), ("a", 5), ("f", 6)]

    @pytest.mark.parametrize(
        "difference",
        [
            {"dataset": "mnist"},
            {"split": "train"},
            {"samples": "other pixels"},
            {"norm": "l2"},
            {"eps": "8/255"},
            {"attacks": ("pgd-50",)},
            {"attacks": ("pgd-20", "autoattack")},
            {"broken_by": outcome(stands=9, broken=2)},
        ],
    )
    def test_only_like_is_ranked_with_like(self, store: ResultStore, add: Add, difference: dict[str, Any]) -> None:
        add("a", 5)
        add("b", 4)
        add("c", **({"stands": 7} | difference))
        assert dict(ranks(store)) == {"a": 1, "b": 2, "c": 1}

    def test_0_031_is_not_8_255(self, store: ResultStore, add: Add) -> None:
        add("a", 5, eps="0.031")
        add("b", 4, eps="8/255")
        assert dict(ranks(store)) == {"a": 1, "b": 1}

    def test_groups_stay_together(self, store: ResultStore, add: Add) -> None:
        for model, stands, dataset in (("a", 1, "x"), ("b", 9, "y"), ("c", 5, "x"), ("d", 3, "y")):
            add(model, stands, dataset=dataset)
        assert ranks(store) == [("c", 1), ("a", 2), ("b", 1), ("d", 2)]

    def test_failed_checks_are_shown_last_and_not_ranked(self, store: ResultStore, add: Add) -> None:
        add("a", 9, verdict="FAIL")
        add("b", 5, verdict="WARN")
        add("c", 3)
        assert ranks(store) == [("b", 1), ("c", 2), ("a", None)]
        assert list(table(store)["checks"]) == ["WARN", "PASS", "FAIL"]

    def test_partial_records_are_shown_and_not_ranked(self, store: ResultStore, add: Add) -> None:
        add("a", 9, partial=True)
        add("b", 5)
        assert ranks(store) == [("b", 1), ("a", None)]


class TestJoining:
    def test_the_worst_case_is_pointwise(self, store: ResultStore, add: Add) -> None:
        """Each attack leaves half; together they leave a quarter."""
        add("a", broken_by=[None, None, "pgd-20", "pgd-20"], attacks=("pgd-20",), created="2026-01-01")
        add("a", broken_by=[None, "autoattack", None, "autoattack"], attacks=("autoattack",), created="2026-01-02")
        (row,) = table(store).to_dict("records")
        assert (row["pgd-20"], row["autoattack"], row["worst_case_acc"]) == (50.0, 50.0, 25.0)
        assert row["eval_seconds"] == 3.0
        assert row["ci_low"] == pytest.approx(100 * stats.binomtest(1, 4).proportion_ci(method="wilson").low, abs=0.01)

    def test_joined_rows_are_ranked_with_rows_of_the_same_attacks(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 6), ("b", 4)):
            add(model, stands, attacks=("pgd-20",))
            add(model, stands, attacks=("autoattack",))
        add("c", 5, attacks=("pgd-20",))
        assert dict(ranks(store)) == {"a": 1, "b": 2, "c": 1}

    def test_the_newest_of_each_protocol_counts(self, store: ResultStore, add: Add) -> None:
        add("a", 9, seed=2, created="2026-01-03")
        add("a", 3, seed=0, created="2026-01-01")
        add("a", 6, seed=1, created="2026-01-02")
        (row,) = table(store).to_dict("records")
        assert row["worst_case_acc"] == 90.0
        assert row["eval_seconds"] == 1.5

    def test_the_column_of_an_attack_is_the_newest_record_s(self, store: ResultStore, add: Add) -> None:
        add("a", 3, attacks=("pgd-20", "autoattack"), created="2026-01-02")
        add("a", 6, attacks=("pgd-20",), created="2026-01-01")
        (row,) = table(store).to_dict("records")
        assert row["worst_case_acc"] == 30.0
        assert row["pgd-20"] == 30.0

    def test_a_complete_record_counts_before_a_newer_partial_one(self, store: ResultStore, add: Add) -> None:
        add("a", 5, seed=0, created="2026-01-01")
        add("a", 9, seed=1, created="2026-01-02", partial=True)
        assert ranks(store) == [("a", 1)]
        assert table(store)["worst_case_acc"].tolist() == [50.0]

    def test_one_bad_check_taints_the_row(self, store: ResultStore, add: Add) -> None:
        add("a", 5, attacks=("pgd-20",), verdict="FAIL")
        add("a", 5, attacks=("autoattack",))
        assert ranks(store) == [("a", None)]
        assert table(store)["checks"].tolist() == ["FAIL"]

    @pytest.mark.parametrize("difference", [{"weights": "retrained"}, {"eps": "0.2"}, {"samples": "others"}])
    def test_other_weights_threats_and_samples_stay_apart(
        self, store: ResultStore, add: Add, difference: dict[str, Any]
    ) -> None:
        add("a", 5, attacks=("pgd-20",))
        add("a", 5, attacks=("autoattack",), **difference)
        assert len(table(store)) == 2

    def test_verdicts_that_do_not_belong_are_refused(self, store: ResultStore, add: Add) -> None:
        record = add("a", 5, attacks=("pgd-20",))
        add("a", 5, attacks=("autoattack",))
        store.verdicts_path(record.id).write_bytes(b"other")
        with pytest.raises(UserError, match="not the file that its record was written with"):
            table(store)


class TestFilters:
    def test_dataset_and_eps(self, store: ResultStore, add: Add) -> None:
        add("a", dataset="digits", eps="8/255")
        add("b", dataset="mnist", eps="8/255")
        add("c", dataset="digits", eps="0.031")
        assert list(table(store, dataset="digits")["model"]) == ["c", "a"]
        assert sorted(table(store, eps="8/255")["model"]) == ["a", "b"]
        assert list(table(store, eps="16/510", dataset="mnist")["model"]) == ["b"]
        assert table(store, dataset="none").empty

    def test_a_broken_eps(self, store: ResultStore, add: Add) -> None:
        add("a")
        with pytest.raises(UserError, match="eps must be a number"):
            table(store, eps="eight")

    def test_no_folder_and_no_records(self, store: ResultStore) -> None:
        with pytest.raises(UserError, match="no results folder"):
            table(store)
        store.folder.mkdir()
        frame = table(store)
        assert frame.empty
        assert list(frame)[:2] == ["rank", "model"]


class TestFiles:
    @pytest.fixture
    def frame(self, store: ResultStore, add: Add) -> pd.DataFrame:
        add("a", 9)
        add("b", 5, attacks=("pgd-20", "autoattack"), dataset="npz:a|b.npz")
        add("c", 3, verdict="FAIL")
        return table(store)

    def test_csv(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        path = tmp_path / "made" / "on the way" / "table.csv"
        save_table(frame, path, form="csv")
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["rank"] for row in rows] == ["1", "", "1"]
        assert [row["autoattack"] for row in rows] == ["", "", "50.0"]
        assert list(rows[0]) == list(frame)
        pd.testing.assert_frame_equal(pd.read_csv(path).astype(frame.dtypes.to_dict()), frame)

    def test_json(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        save_table(frame, tmp_path / "table.json", form="json")
        rows = json.loads((tmp_path / "table.json").read_text())
        assert [row["rank"] for row in rows] == [1, None, 1]
        assert [row["autoattack"] for row in rows] == [None, None, 50.0]
        assert [row["worst_case_acc"] for row in rows] == [90.0, 30.0, 50.0]

    def test_markdown(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        save_table(frame, tmp_path / "table.md", form="markdown")
        lines = (tmp_path / "table.md").read_text().splitlines()
        cells = [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines]
        assert cells[0] == list(frame)
        assert {len(row) for row in cells} == {len(frame.columns)}
        assert cells[1][:3] == ["---:", "---", "---"]
        rows = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
        assert [row["rank"] for row in rows] == ["1", "", "1"]
        assert [row["worst_case_acc"] for row in rows] == ["90.00", "30.00", "50.00"]
        assert [row["n"] for row in rows] == ["100"] * 3
        assert rows[2]["dataset"] == "npz:a/b.npz"

    def test_markdown_of_nothing(self, store: ResultStore) -> None:
        store.folder.mkdir()
        assert markdown(table(store)).count("\n") == 2

    def test_what_cannot_be_written(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file" / "table.csv", tmp_path):
            with pytest.raises(UserError, match="cannot write"):
                save_table(frame, path, form="csv")
