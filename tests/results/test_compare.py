"""Comparisons of two models, through the command line and from Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from synthetic_records import make_record, outcome

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.compare import compare
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import Record


def with_data(store: ResultStore, record: Record, **changes: Any) -> None:
    """Replace what a record says of its samples."""
    new = record.model_copy(update={"data": record.data.model_copy(update=changes)}).sealed()
    store.record_path(record.id).write_text(new.text())


def test_all_samples_of_equal_sets_are_paired(store: ResultStore) -> None:
    make_record(store, [None, None, "pgd-20", "clean"], model="a")
    make_record(store, [None, "pgd-20", None, "clean"], model="b")
    (found,) = compare(store, "a", "b")
    assert found.counts == PairedCounts(both=1, first_only=1, second_only=1, neither=1)
    assert found.verdict == "no difference shown at n = 4"


def test_of_other_sets_the_equal_blocks_are(store: ResultStore) -> None:
    """The first 100 of the 130 samples are the first 100 of the 200."""
    generator = np.random.default_rng(0)
    first, second = generator.random(130) < 0.5, generator.random(200) < 0.6
    a = make_record(store, [None if stands else "pgd-20" for stands in first], model="a")
    b = make_record(store, [None if stands else "pgd-20" for stands in second], model="b")
    assert a.data.blocks == b.data.blocks[:2]
    (found,) = compare(store, "a", "b")
    assert found.counts == PairedCounts.of(first[:100], second[:100])
    assert found.adjusted_p is None  # other sample sets are other boards
    with_data(store, b, blocks=("other", *b.data.blocks[1:]))
    (found,) = compare(store, "a", "b")
    assert found.counts == PairedCounts.of(first[50:100], second[50:100])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"blocks": ()}, "does not say which pixels it saw"),
        ({"blocks": ("x", "y", "z")}, "no block of equal pixels"),
        ({"sample_set": "chosen"}, "is of chosen samples"),
        ({"index_ranges": ((10, 160),)}, "is of chosen samples"),
    ],
)
def test_samples_that_may_differ_are_not_paired(store: ResultStore, changes: dict[str, Any], says: str) -> None:
    make_record(store, outcome(stands=60, broken=40), model="a")
    with_data(store, make_record(store, outcome(stands=60, broken=90), model="b"), **changes)
    for first, second in (("a", "b"), ("b", "a")):
        with pytest.raises(UserError, match=says):
            compare(store, first, second)


def test_other_pixels_under_the_same_indices_are_not_paired(store: ResultStore) -> None:
    make_record(store, outcome(stands=60, broken=40), model="a", samples="as published")
    make_record(store, outcome(stands=60, broken=40), model="b", samples="compressed again")
    with pytest.raises(UserError, match="share no samples: their sample sets have no block of equal pixels"):
        compare(store, "a", "b")


def test_the_better_one_is_named_in_either_order(store: ResultStore) -> None:
    make_record(store, outcome(stands=80, broken=20), model="a")
    make_record(store, outcome(stands=60, broken=40), model="b")
    assert [found.verdict for found in compare(store, "a", "b")] == ["a ahead"]
    assert [found.verdict for found in compare(store, "b", "a")] == ["a ahead"]


def test_only_like_is_compared_with_like(store: ResultStore) -> None:
    make_record(store, outcome(stands=8, broken=2), model="a", eps="8/255")
    make_record(store, outcome(stands=6, broken=4), model="b", eps="0.031")
    with pytest.raises(UserError, match=r"share no samples.*\(a: digits test linf 8/255 n = 10; b: .* 0.031 n = 10\)"):
        compare(store, "a", "b")


def test_all_that_is_known_of_a_model_counts_and_of_a_record_it_alone(store: ResultStore) -> None:
    first = make_record(store, [None] * 8 + ["pgd-20"] * 2, model="a", seed=1, created="2026-01-01")
    make_record(store, [None] * 6 + ["autoattack"] * 2 + [None] * 2, model="a", attacks=("autoattack",), partial=True)
    make_record(store, outcome(stands=8, broken=2), model="b")
    (found,) = compare(store, "a", "b")
    assert found.counts == PairedCounts(both=6, first_only=0, second_only=2, neither=2)
    (found,) = compare(store, first.id, "b")
    assert found.counts.difference == 0
    assert found.first.name == first.id
    assert found.adjusted_p is None


def test_a_name_means_its_current_model(store: ResultStore) -> None:
    make_record(store, outcome(stands=90, broken=10), model="a", weights="old", created="2026-01-01")
    make_record(store, outcome(stands=30, broken=70), model="a", weights="new", created="2026-01-02")
    make_record(store, outcome(stands=60, broken=40), model="b")
    assert [found.verdict for found in compare(store, "a", "b")] == ["b ahead"]


def test_the_board_s_p_value_is_adjusted_for_all_pairs_of_the_tier(store: ResultStore) -> None:
    for model, stands in (("a", 70), ("b", 62), ("c", 62)):
        make_record(store, outcome(stands=stands, broken=100 - stands), model=model)
    make_record(store, outcome(stands=5, broken=95), model="weak", attacks=("fgsm",))
    (found,) = compare(store, "a", "b")
    assert found.counts.p_value == pytest.approx(2 / 2**8)
    assert found.adjusted_p == pytest.approx(3 * 2 / 2**8)
    (found,) = compare(store, "a", "weak")
    assert found.adjusted_p is None


def test_the_command_says_who_is_ahead_and_what_would_be_needed(store: ResultStore, gklbench: CommandLine) -> None:
    make_record(store, outcome(stands=80, broken=20), model="a")
    make_record(store, outcome(stands=77, broken=23), model="b")
    make_record(store, outcome(stands=40, broken=60), model="c", attacks=("autoattack",))
    close = gklbench("compare", "a", "b", "--results-dir", store.folder)
    assert close.code == 0
    assert "no difference shown at n = 100" in close.out
    assert "samples would show" in close.out
    assert "p = 0.25 (0.25 among all pairs of the tier gradient)" in close.out
    far = gklbench("compare", "a", "c", "--results-dir", store.folder)
    assert "a ahead" in far.out
    assert "+40.00 points" in far.out
    assert "not attacked alike" in far.out
    unknown = gklbench("compare", "a", "d", "--results-dir", store.folder)
    assert unknown.code == 2
    assert "unknown model 'd'" in unknown.err
