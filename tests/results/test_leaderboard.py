"""Leaderboards: who is ranked against whom, which columns there are, and what the files say."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_records import BrokenBy, make_record, outcome

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.export import markdown, save_table
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import Record

Add = Callable[..., Record]


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
        trailing = ["worst_case_acc", "ci_low", "ci_high", "checks", "params", "eval_seconds", "tier"]
        attacks = ["pgd-20", "autoattack", "after pgd-20+autoattack"]
        assert list(table(store)) == [*leading, *attacks, *trailing]

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
            "after pgd-20+autoattack": round(700 / 13, 2),
            "worst_case_acc": round(700 / 13, 2),
            "ci_low": round(100 * interval.low, 2),
            "ci_high": round(100 * interval.high, 2),
            "checks": "PASS",
            "params": 1234,
            "eval_seconds": 12.3,
            "tier": "autoattack",
        }

    def test_types(self, store: ResultStore, add: Add) -> None:
        add("a")
        add("b", verdict="FAIL")
        frame = table(store)
        assert str(frame["rank"].dtype) == "Int64"
        assert frame["n"].dtype == frame["params"].dtype == "int64"
        assert frame["worst_case_acc"].dtype == "float64"

    def test_what_differs_between_rows_is_shown(self, store: ResultStore, add: Add) -> None:
        add("a", attacks=("autoattack",))
        assert "lacks" not in table(store)
        add("b", attacks=("autoattack",), which="last", engine="reference")
        add("b", attacks=("autoattack",), which="last", seed=1)
        add("b", attacks=("pgd-20",), which="last", seed=2)
        add("c", split="train")
        add("d", samples="others", partial=True)
        frame = table(store)
        columns = ["tier", "split", "samples", "weights", "engine", "attack_seeds", "lacks"]
        assert list(frame)[list(frame).index("tier") :] == columns
        rows = {str(row["model"]): row for row in frame.to_dict("records")}
        assert [rows["a"][key] for key in ("split", "weights", "engine", "attack_seeds")] == [
            *("test", "best", "native", 1),
        ]
        assert [rows["b"][key] for key in ("weights", "engine", "attack_seeds")] == ["last", "native+reference", 2]
        assert [rows["c"][key] for key in ("split", "samples")] == ["train", ""]
        assert rows["d"]["samples"] != rows["a"]["samples"] != ""


class TestRanks:
    def test_by_worst_case_accuracy(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 3), ("b", 8), ("c", 5)):
            add(model, stands)
        assert ranks(store) == [("b", 1), ("c", 2), ("a", 3)]

    def test_equals_share_a_rank_and_the_next_one_is_free(self, store: ResultStore, add: Add) -> None:
        for model, stands in (("a", 3), ("b", 8), ("c", 5), ("d", 5), ("e", 5), ("f", 1)):
            add(model, stands)
        assert ranks(store) == [("b", 1), ("c", 2), ("d", 2), ("e", 2), ("a", 5), ("f", 6)]

    def test_a_rank_counts_who_is_significantly_better_and_no_one_else(self, store: ResultStore, add: Add) -> None:
        """A and C cannot be told apart, nor B and C; so C is first too, although B, which is better, is not."""
        a = np.ones(2000, dtype=bool)
        b, c = a.copy(), a.copy()
        a[:100] = b[:110] = False
        c[300:411] = False
        c[:98] = True
        outcomes = {"A": a, "B": b, "C": c}
        for name, stands in outcomes.items():
            add(name, broken_by=[None if right else "pgd-20" for right in stands])

        def p(one: str, other: str) -> float:
            return PairedCounts.of(outcomes[one], outcomes[other]).p_value

        assert p("A", "B") == pytest.approx(0.002, abs=1e-4)
        assert p("A", "C") > 0.3
        assert p("B", "C") > 0.9
        assert ranks(store) == [("A", 1), ("C", 1), ("B", 2)]

    @pytest.mark.parametrize(
        "difference",
        [
            {"dataset": "mnist"},
            {"split": "train"},
            {"samples": "other pixels"},
            {"norm": "l2"},
            {"eps": "8/255"},
            {"attacks": ("autoattack",)},
            {"broken_by": outcome(stands=9, broken=2)},
        ],
    )
    def test_only_like_is_ranked_with_like(self, store: ResultStore, add: Add, difference: dict[str, Any]) -> None:
        add("a", 5)
        add("b", 2)
        add("c", **({"stands": 7} | difference))
        assert dict(ranks(store)) == {"a": 1, "b": 2, "c": 1}

    @pytest.mark.parametrize("attacks", [("pgd-50",), ("pgd-20", "fgsm"), ("apgd-ce",), ("torchattacks.PGD",)])
    def test_attacks_of_one_tier_are_ranked_together(
        self, store: ResultStore, add: Add, attacks: tuple[str, ...]
    ) -> None:
        if attacks[0].startswith("torchattacks"):
            pytest.importorskip("torchattacks")
        add("a", 8)
        add("b", 3, attacks=attacks)
        assert ranks(store) == [("a", 1), ("b", 2)]

    def test_0_031_is_not_8_255(self, store: ResultStore, add: Add) -> None:
        add("a", 5, eps="0.031")
        add("b", 4, eps="8/255")
        assert dict(ranks(store)) == {"a": 1, "b": 1}

    def test_boards_stay_together_smaller_radii_first(self, store: ResultStore, add: Add) -> None:
        for model, stands, dataset in (("a", 1, "x"), ("b", 9, "y"), ("c", 5, "x"), ("d", 3, "y")):
            add(model, stands, dataset=dataset)
        for eps in ("16/255", "2/255"):
            add("e", 5, dataset="z", eps=eps)
        assert ranks(store) == [("c", 1), ("a", 2), ("b", 1), ("d", 2), ("e", 1), ("e", 1)]
        assert table(store)["threat"].tolist()[-2:] == ["linf 2/255", "linf 16/255"]

    def test_the_same_samples_stay_apart_from_others_of_their_name(self, store: ResultStore, add: Add) -> None:
        add("a", 5)
        add("b", 3, samples="replaced")
        assert dict(ranks(store)) == {"a": 1, "b": 1}
        assert table(store)["samples"].nunique() == 2


class TestFilters:
    def test_filters_change_no_rank(self, store: ResultStore, add: Add) -> None:
        """30 models make 435 pairs, two of them one: what Holm asks for shows where there are many."""
        add("a", broken_by=outcome(stands=60, broken=40))
        add("b", broken_by=outcome(stands=52, broken=48))
        first = leaderboard(store.folder)
        assert first["rank"].tolist() == [1, 2]
        for i in range(28):
            add(f"m{i}", broken_by=outcome(stands=56, broken=44))
        everything = leaderboard(store.folder)
        assert set(everything["rank"]) == {1}
        some = leaderboard(store.folder, dataset="digits", eps="0.1")
        pd.testing.assert_frame_equal(some, everything)

    def test_a_suite_s_board_is_built_from_its_records_alone(self, store: ResultStore, add: Add) -> None:
        mine = [add("a", 8).id, add("b", 5).id]
        add("c", 9)
        add("a", 1, seed=1)
        frame = leaderboard(store.folder, ids=mine)
        assert list(zip(frame["model"], frame["rank"], frame["worst_case_acc"], strict=True)) == [
            ("a", 1, 80.0),
            ("b", 2, 50.0),
        ]

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
        add("b", 5, attacks=("autoattack",), dataset="npz:a|b.npz")
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
        read = pd.read_csv(path).fillna({"tier": "", "lacks": ""})
        pd.testing.assert_frame_equal(read.astype(frame.dtypes.to_dict()), pd.DataFrame(frame))

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
