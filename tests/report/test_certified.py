"""Certificates on boards and in the figures of reports."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from synthetic_records import make_record, outcome

from robustbench_gkl.report.boards import boards_of
from robustbench_gkl.report.content import by_radius, falls
from robustbench_gkl.report.figures import accuracy_against_eps, who_fell_to_what
from robustbench_gkl.report.scatter import clean_against_robust
from robustbench_gkl.results import Record, ResultStore, leaderboard
from robustbench_gkl.results.record import Certificates, pack_standing
from robustbench_gkl.results.statistics import wilson_interval


def certified(store: ResultStore, record: Record, proved: list[int]) -> Record:
    """Give a record in a store certificates of the samples at some positions."""
    samples = np.isin(np.arange(record.data.n), proved)
    found = Certificates(
        proved=len(proved), methods={"crown": len(proved)}, undecided=0, samples=pack_standing(samples), margin=1e-5
    )
    changed = record.model_copy(update={"certified": found}).sealed()
    store.save(changed, store.verdicts_path(record.id).read_bytes())
    return changed


@pytest.fixture
def filled(store: ResultStore) -> ResultStore:
    """A model with two records: in the second fell a sample that the first says is proved; and another model."""
    first = make_record(store, outcome(stands=8, broken=2), model="proved", attacks=("pgd-20",))
    second = make_record(store, outcome(stands=7, broken=3), model="proved", attacks=("apgd-ce",), eps="0.1")
    certified(store, first, [0, 1, 7])
    certified(store, second, [1, 2])
    make_record(store, outcome(stands=5, broken=5), model="plain", weights="other")
    return store


def test_the_board_joins_what_is_proved_and_believes_no_broken_sample(filled: ResultStore) -> None:
    board = leaderboard(filled.folder).set_index("model")
    assert list(board)[-3:] == ["certified_acc", "certified_low", "certified_high"]
    low, high = wilson_interval(3, 10)
    assert board.loc["proved", "certified_acc"] == 30
    assert board.loc["proved", "certified_low"] == round(100 * low, 2)
    assert board.loc["proved", "certified_high"] == round(100 * high, 2)
    assert board.loc["plain", ["certified_acc", "certified_low", "certified_high"]].isna().all()


def test_a_certificate_that_a_record_contradicts_is_named(
    filled: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    leaderboard(filled.folder)
    (said,) = caplog.messages
    assert said.startswith("proved on ")
    assert "1 certified in one record and broken in another" in said


def test_a_board_of_one_attack_claims_no_sample_that_another_breaks(
    store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    first = certified(store, make_record(store, outcome(stands=8, broken=2), attacks=("pgd-20",)), [0, 1, 7])
    make_record(store, outcome(stands=7, broken=3), attacks=("square",))
    (row,) = leaderboard(store.folder, reference=first.attacks[0].spec).to_dict("records")
    assert (row["certified_acc"], row["worst_case_acc"]) == (20, 80)
    assert "1 certified in one record and broken in another" in caplog.text


def test_a_board_without_certificates_is_as_it_was(store: ResultStore) -> None:
    make_record(store, outcome(stands=5, broken=5))
    assert not [name for name in leaderboard(store.folder) if str(name).startswith("certified")]


def test_figures_show_a_band_between_both_sides(filled: ResultStore) -> None:
    board = next(board for board in boards_of(leaderboard(filled.folder)) if "certified_acc" in board.own_columns)
    figure = clean_against_robust(board, links={})
    assert figure is not None
    (band,) = [trace for trace in figure.data if trace["name"] == "certified to attacked"]
    assert band["x"] == [100.0, 100.0, None]
    assert band["y"] == [30.0, 70.0, None]


def test_curves_show_a_band_where_all_radii_are_certified(store: ResultStore) -> None:
    for eps, stands, proved in (("0.1", 8, [0, 1]), ("0.2", 6, [0])):
        certified(store, make_record(store, outcome(stands=stands, broken=10 - stands), eps=eps), proved)
    ((curve,),) = by_radius(store.records()).values()
    assert curve.eps == (Fraction(0), Fraction(1, 10), Fraction(1, 5))
    figure = accuracy_against_eps("curve", [curve])
    (band,) = [trace for trace in figure.data if trace.get("fill") == "toself"]
    assert band["y"] == [100.0, 80.0, 60.0, 10.0, 20.0, 100.0]


def test_bars_show_what_is_certified_as_a_part_of_what_stands(filled: ResultStore) -> None:
    models = {record.model.name: falls(record) for record in filled.records() if record.worst_case_acc != 70}
    assert {name: (parts[-1].count, parts[-1].proved) for name, parts in models.items()} == {
        "proved": (8, 3),
        "plain": (5, 0),
    }
    bars = {
        trace["name"]: dict(zip(trace["y"], trace["x"], strict=True)) for trace in who_fell_to_what("x", models).data
    }
    assert bars["certified"] == {"proved": 30, "plain": 0}
    assert bars["standing"] == {"proved": 50, "plain": 50}
    plain = who_fell_to_what("x", {"plain": models["plain"]})
    assert "certified" not in [trace["name"] for trace in plain.data]
