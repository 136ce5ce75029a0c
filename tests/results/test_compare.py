"""Comparisons of two models, through the command line and from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import CommandLine
from synthetic_records import make_record, outcome

from robustbench_gkl.errors import UserError
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.compare import compare
from robustbench_gkl.results.paired import PairedCounts


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_the_counts_are_those_of_the_shared_samples(store: ResultStore) -> None:
    make_record(store, [None, None, "pgd-20", "clean", None, None], model="a")
    make_record(store, [None, "pgd-20", None, "clean"], model="b")
    (found,) = compare(store, "a", "b")
    assert found.counts == PairedCounts(both=1, first_only=1, second_only=1, neither=1)
    assert found.verdict == "no difference shown at n = 4"


def test_the_better_one_is_named_in_either_order(store: ResultStore) -> None:
    make_record(store, outcome(stands=80, broken=20), model="a")
    make_record(store, outcome(stands=60, broken=40), model="b")
    assert [found.verdict for found in compare(store, "a", "b")] == ["a ahead"]
    assert [found.verdict for found in compare(store, "b", "a")] == ["a ahead"]


def test_only_like_is_compared_with_like(store: ResultStore) -> None:
    make_record(store, outcome(stands=8, broken=2), model="a", eps="8/255")
    make_record(store, outcome(stands=6, broken=4), model="b", eps="0.031")
    make_record(store, outcome(stands=6, broken=4, by="autoattack"), model="c", eps="8/255", attacks=("autoattack",))
    for other in ("b", "c"):
        with pytest.raises(UserError, match="share no samples"):
            compare(store, "a", other)


def test_the_newest_record_of_a_model_counts(store: ResultStore) -> None:
    make_record(store, outcome(stands=1, broken=9), model="a", seed=1, created="2026-01-01")
    newest = make_record(store, outcome(stands=8, broken=2), model="a", seed=2, created="2026-01-02")
    make_record(store, outcome(stands=8, broken=2), model="b")
    (found,) = compare(store, "a", "b")
    assert found.first.id == newest.id
    assert found.counts.difference == 0


def test_the_command_says_who_is_ahead_and_what_would_be_needed(store: ResultStore, gklbench: CommandLine) -> None:
    make_record(store, outcome(stands=80, broken=20), model="a")
    make_record(store, outcome(stands=77, broken=23), model="b")
    make_record(store, outcome(stands=40, broken=60), model="c")
    close = gklbench("compare", "a", "b", "--results-dir", store.folder)
    assert close.code == 0
    assert "no difference shown at n = 100" in close.out
    assert "samples would show" in close.out
    far = gklbench("compare", "a", "c", "--results-dir", store.folder)
    assert "a ahead" in far.out
    assert "+40.00 points" in far.out
    unknown = gklbench("compare", "a", "d", "--results-dir", store.folder)
    assert unknown.code == 2
    assert "unknown model 'd'" in unknown.err
