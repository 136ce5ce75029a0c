"""What the columns of attacks mean: each one thing, whatever the order in which a user gave the attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from synthetic_records import BrokenBy, make_record, outcome

from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.record import Record

Add = Callable[..., Record]


@pytest.fixture
def add(store: ResultStore) -> Add:
    def add_record(broken_by: BrokenBy, **options: Any) -> Record:
        return make_record(store, broken_by, **{"model": "a", **options})

    return add_record


def cells(store: ResultStore) -> dict[str, float]:
    """Return the accuracies of the attacks of the only row."""
    (row,) = leaderboard(store.folder).to_dict("records")
    names = list(map(str, row))
    return {name: row[name] for name in names[8 : names.index("worst_case_acc")]}


def test_the_order_of_the_attacks_gives_a_column_no_second_meaning(store: ResultStore, add: Add) -> None:
    add([None] * 4 + ["pgd-20"] * 2 + ["autoattack"] * 4, model="a", attacks=("pgd-20", "autoattack"))
    add([None] * 4 + ["autoattack"] * 6, model="b", attacks=("autoattack", "pgd-20"))
    frame = leaderboard(store.folder)
    rows = {str(row["model"]): row for row in frame.fillna(-1).to_dict("records")}
    columns = ["pgd-20", "autoattack", "after autoattack+pgd-20", "after pgd-20+autoattack"]
    assert list(frame)[8:12] == columns
    assert [rows["a"][name] for name in columns] == [80.0, -1, -1, 40.0]
    assert [rows["b"][name] for name in columns] == [-1, 40.0, 40.0, -1]


def test_natural_order(store: ResultStore, add: Add) -> None:
    for spec in ("square", "autoattack", "pgd-100", "pgd-20", "autoattack:version=rand", "fgsm", "pgd-20:restarts=5"):
        add([None] * 5, attacks=(spec,))
    assert list(cells(store)) == [
        *("fgsm", "pgd-20", "pgd-20:restarts=5", "pgd-100", "square"),
        *("autoattack", "autoattack-rand"),
    ]


def test_engine_precision_compilation_and_grids_have_columns_of_their_own(store: ResultStore, add: Add) -> None:
    add(outcome(stands=40, broken=60))
    add(outcome(stands=45, broken=55), engine="reference")
    ways: tuple[dict[str, Any], ...] = ({"search_precision": "bf16"}, {"search_precision": "tf32", "compiled": True})
    for seed, how in enumerate(ways, start=1):
        record = add(outcome(stands=50, broken=50), seed=seed)
        assert record.config is not None
        new = record.model_copy(update={"config": record.config.model_copy(update=how)}).sealed()
        store.record_path(record.id).write_text(new.text())
    assert cells(store) == {
        "pgd-20": 40.0,
        "pgd-20 (reference)": 45.0,
        "pgd-20 [bf16]": 50.0,
        "pgd-20 [tf32] [compiled]": 50.0,
    }


@pytest.mark.parametrize("keep_standing", [True, False])
def test_seeds_of_one_column_are_joined_pointwise(store: ResultStore, add: Add, keep_standing: bool) -> None:
    attacks = ("pgd-20", "autoattack")
    broken: tuple[tuple[str | None, ...], ...] = (
        ("pgd-20", None, "square", None),
        (None, "pgd-20", None, "square"),
    )
    for seed, broken_by in enumerate(broken):
        add([*[None] * 6, *broken_by], attacks=attacks, seed=seed, keep_standing=keep_standing)
    assert cells(store) == {"pgd-20": 80.0, "after pgd-20+autoattack": 60.0}


def test_without_samples_the_newest_record_speaks(store: ResultStore, add: Add) -> None:
    """Square ran twice, and the verdicts do not tell which of the two broke a sample."""
    for seed, stands in enumerate((5, 7)):
        broken_by = [None] * stands + ["square"] * (10 - stands)
        add(broken_by, attacks=("square", "autoattack"), seed=seed, created=f"2026-01-0{seed + 1}")
    assert cells(store) == {"square": 70.0, "after square+autoattack": 50.0}


def test_what_was_not_completed_shows_where_there_is_nothing_better(store: ResultStore, add: Add) -> None:
    add(outcome(stands=8, broken=2), partial=True)
    assert cells(store) == {"pgd-20": 80.0}
    add(outcome(stands=9, broken=1), seed=1)
    assert cells(store) == {"pgd-20": 90.0}


def test_labels_that_are_alike_are_told_apart_by_their_specs(store: ResultStore, add: Add) -> None:
    """As of two files of submitted images with one name."""
    for seed, spec in enumerate(("images:sha256=aa", "images:sha256=bb")):
        record = add(outcome(stands=8 - seed, broken=2 + seed), seed=seed)
        (attack,) = record.attacks
        named = attack.model_copy(update={"label": "images:mine.npz", "spec": spec})
        store.record_path(record.id).write_text(record.model_copy(update={"attacks": (named,)}).sealed().text())
    assert cells(store) == {"images:sha256=aa": 80.0, "images:sha256=bb": 70.0}
