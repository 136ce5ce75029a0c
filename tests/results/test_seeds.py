"""Families over training seeds: who belongs to one, what is compared, and what a single seed lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_records import make_record, outcome

from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.record import Record

Add = Callable[..., Record]


@pytest.fixture
def add(store: ResultStore) -> Add:
    def add_record(stands: int, train_seed: int, loss: str = "gkl", **options: Any) -> Record:
        options = {"model": f"{loss}-seed{train_seed}"} | options
        return make_record(
            store, outcome(stands=stands, broken=100 - stands), loss=loss, train_seed=train_seed, **options
        )

    return add_record


def families(store: ResultStore) -> list[dict[Any, Any]]:
    return leaderboard(store.folder, average_seeds=True).to_dict("records")


def test_accuracies_are_means_over_the_models(store: ResultStore, add: Add) -> None:
    standing = [50, 53, 59]
    for seed, stands in enumerate(standing):
        add(stands, seed)
    (row,) = families(store)
    assert (row["model"], row["seeds"], row["rank"], row["tier"]) == ("gkl-seed", 3, 1, "gradient")
    assert row["worst_case_acc"] == row["pgd-20"] == pytest.approx(np.mean(standing))
    assert row["spread"] == pytest.approx(np.std(standing, ddof=1), abs=0.01)
    interval = stats.t.interval(0.95, 2, loc=np.mean(standing), scale=stats.sem(standing))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(interval, abs=0.02)
    columns = list(leaderboard(store.folder, average_seeds=True))
    assert columns[9:] == [
        *("worst_case_acc", "spread", "seeds", "ci_low", "ci_high", "checks", "params", "eval_seconds", "tier"),
    ]


def test_more_evidence_on_some_seeds_takes_no_rank_from_the_family(store: ResultStore, add: Add) -> None:
    for seed in range(3):
        add(50 + seed, seed)
    add(49, 0, attacks=("autoattack",))
    add(50, 1, attacks=("autoattack",))
    (row,) = families(store)
    assert (row["seeds"], row["rank"], row["tier"]) == (3, 1, "gradient")
    assert row["worst_case_acc"] == pytest.approx((49 + 50 + 52) / 3, abs=0.01)


def test_the_same_weights_under_another_choice_leave_the_family_whole(store: ResultStore, add: Add) -> None:
    for seed in range(2):
        add(50 + seed, seed, created=f"2026-01-0{seed + 1}")
    weights = add(50, 0, created="2026-01-01").model.weights_sha256
    add(50, 0, which="last", weights_sha256=weights, seed=5, created="2026-02-01")
    (row,) = families(store)
    assert (row["seeds"], row["rank"]) == (2, 1)


def test_copies_and_superseded_models_do_not_count(store: ResultStore, add: Add) -> None:
    add(50, 0, created="2026-01-01")
    for i in range(3):
        add(50, 0, model=f"copy{i}", weights_sha256=add(50, 0, created="2026-01-01").model.weights_sha256)
    add(10, 1, weights="old", created="2026-01-01")
    add(54, 1, weights="new", created="2026-01-02")
    add(90, 1, model="another run of the seed", created="2025-12-31")
    (row,) = families(store)
    assert (row["seeds"], row["worst_case_acc"]) == (2, 52.0)


def test_a_single_seed_has_an_interval_over_samples_and_no_rank(store: ResultStore, add: Add) -> None:
    add(40, 0, loss="trades")
    add(50, 0)
    add(52, 1)
    first, second = families(store)
    assert (first["model"], first["rank"], first["lacks"]) == ("gkl-seed", 1, "")
    assert (second["model"], second["seeds"], second["lacks"]) == ("trades-seed0", 1, "more training seeds")
    assert pd.isna(second["rank"])
    assert pd.isna(second["spread"])
    assert second["ci_low"] == pytest.approx(100 * stats.binomtest(40, 100).proportion_ci(method="wilson").low, abs=0.1)


def test_families_are_compared_by_their_seeds_and_not_their_samples(store: ResultStore, add: Add) -> None:
    """Two seeds that differ much among themselves show no difference to two others, however many samples there are."""
    for loss, standing in (("gkl", (40, 70)), ("trades", (35, 65)), ("mart", (10, 11)), ("pgd-at", (90, 91))):
        for seed, stands in enumerate(standing):
            add(stands, seed, loss=loss)
    ranks = {row["model"]: row["rank"] for row in families(store)}
    assert ranks == {"pgd-at-seed": 1, "gkl-seed": 1, "trades-seed": 1, "mart-seed": 2}


def test_seeds_that_agree_have_an_interval(store: ResultStore, add: Add) -> None:
    add(50, 0)
    add(50, 1)
    (row,) = families(store)
    assert row["spread"] == 0
    assert row["ci_low"] < 50 < row["ci_high"]


def test_tiers_and_what_has_no_rank_stay_apart(store: ResultStore, add: Add) -> None:
    for seed in range(2):
        add(50 + seed, seed)
        add(30, seed, loss="trades", attacks=("autoattack",))
        add(90, seed, loss="mart", partial=True)
    found = families(store)
    assert [row["model"] for row in found] == ["trades-seed", "gkl-seed", "mart-seed"]
    assert [row["tier"] for row in found] == ["autoattack", "gradient", ""]
    assert [row["lacks"] for row in found] == ["", "", "a complete attack (pgd-20 stopped early)"]
    assert [pd.isna(row["rank"]) for row in found] == [False, False, True]


def test_a_column_that_one_seed_lacks_has_no_mean(store: ResultStore, add: Add) -> None:
    add(50, 0)
    add(52, 1)
    add(60, 1, attacks=("fgsm",))
    (row,) = families(store)
    assert pd.isna(row["fgsm"])
    assert row["pgd-20"] == 51.0
