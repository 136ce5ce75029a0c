"""The boards of a report: their order, their rows, and the sentences that sum them up."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from synthetic_records import make_record, outcome
from test_certified import certified

from robustbench_gkl.report.boards import Board, boards_of
from robustbench_gkl.report.names import cut, short_datasets
from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.published_rows import with_published

EXAMPLES = Path(__file__).parents[2] / "results" / "examples"


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


def only(store: ResultStore) -> Board:
    (board,) = boards_of(leaderboard(store.folder))
    return board


def test_the_largest_board_is_first_and_a_model_has_one_row_on_each(store: ResultStore) -> None:
    for i, (eps, models) in enumerate((("0", "ab"), ("0.1", "abc"), ("0.2", "ab"))):
        for model in models:
            for seed, attack in enumerate(("none",) if eps == "0" else ("pgd-20", "apgd-ce", "autoattack")):
                outcomes = [None] * 9
                made = {"eps": eps, "seed": seed, "created": f"2026-01-0{i + 1}"}
                make_record(store, outcomes, model=model, attacks=(attack,), **made)  # type: ignore[arg-type]
    boards = boards_of(leaderboard(store.folder))
    assert [board.title for board in boards] == ["digits, linf 0.1", "digits, linf 0.2", "digits, clean accuracy"]
    assert [board.frame["model"].tolist() for board in boards] == [["a", "b", "c"], ["a", "b"], ["a", "b"]]
    assert {*boards[0].own_columns} & {"dataset", "n", "threat"} == {"threat"}


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        (
            "digits",
            "digits-trades leads with 76.11 % robust accuracy under AutoAttack, 0.28 points ahead of digits-gkl: "
            "too little to tell the two apart.",
        ),
        (
            "cifar10-cnn-a",
            "gkl-awp-seed1 leads with 21.60 % robust accuracy under AutoAttack, 0.20 points ahead of gkl-seed0: "
            "too little to tell the two apart (18 share rank 1).",
        ),
    ],
)
def test_the_sentence_of_recorded_boards(folder: str, says: str) -> None:
    (board,) = boards_of(leaderboard(EXAMPLES / folder))
    assert board.summary == says


@pytest.mark.parametrize(
    ("stands", "says"),
    [
        ((90, 40), "a leads with {}, 50.00 points ahead of b: significantly better."),
        ((90, 90), "a leads with {}, the same as b: too little to tell the two apart."),
        ((90,), "a has {}; there is none to compare it with."),
    ],
    ids=["apart", "together", "alone"],
)
def test_the_sentence_says_whether_the_next_can_be_told_apart(
    stands: tuple[int, ...], says: str, store: ResultStore
) -> None:
    for name, standing in zip("ab", stands, strict=False):
        make_record(store, outcome(stands=standing, broken=100 - standing), model=name)
    assert only(store).summary == says.format("90.00 % robust accuracy under gradient attacks")


def test_the_sentence_counts_weaker_tiers_and_models_without_a_rank(store: ResultStore) -> None:
    make_record(store, outcome(stands=5, broken=5, by="apgd-ce"), model="strong", attacks=("autoattack",))
    make_record(store, outcome(stands=9, broken=1), model="weak")
    make_record(store, outcome(stands=9, broken=1), model="cut-short", partial=True)
    assert only(store).summary == (
        "strong has 50.00 % robust accuracy under AutoAttack; there is none to compare it with. "
        "Of the others, 1 stands in a weaker tier and 1 has no rank."
    )


def test_the_sentence_of_a_board_without_ranks(store: ResultStore) -> None:
    make_record(store, outcome(stands=9, broken=1), model="a", partial=True)
    assert only(store).summary == "Its one model has no rank yet."
    make_record(store, outcome(stands=8, broken=2), model="b", partial=True)
    assert only(store).summary == "None of 2 models has a rank yet."


def test_the_sentence_has_the_bracket_of_the_leader(store: ResultStore) -> None:
    certified(store, make_record(store, outcome(stands=8, broken=2)), [0, 1, 2])
    assert only(store).summary.endswith(
        "On these images its robust accuracy is between 30.00 % (certified) and 80.00 % (under attack)."
    )


def test_the_sentence_of_a_bracket_that_is_closed(store: ResultStore) -> None:
    certified(store, make_record(store, outcome(stands=3, broken=7)), [0, 1, 2])
    assert only(store).summary.endswith("On these images its robust accuracy is 30.00 %: what stands is certified.")


def test_the_sentence_of_clean_accuracy_and_of_families(store: ResultStore) -> None:
    for seed, wrong in enumerate((1, 2, 3)):
        clean = outcome(stands=10 - wrong, wrong=wrong)
        make_record(store, clean, model=f"m-seed{seed}", attacks=("none",), eps="0", train_seed=seed)
    assert only(store).summary.startswith("m-seed0 leads with 90.00 % clean accuracy, 10.00 points ahead of m-seed1")
    (board,) = boards_of(leaderboard(store.folder, average_seeds=True))
    assert board.summary == "m-seed has 80.00 % clean accuracy; there is none to compare it with."


def test_published_rows_stand_on_the_board_of_most_samples(store: ResultStore) -> None:
    for n in (10, 20):
        make_record(store, [None] * n, attacks=("autoattack",), dataset="cifar10", eps="8/255")
    frame = with_published(leaderboard(store.folder), dataset="cifar10", eps="8/255")
    small, large = sorted((board for board in boards_of(frame) if len(board.ours)), key=lambda board: board.at.n)
    assert (small.at.n, large.at.n) == (10, 20)
    assert len(small.frame) == 1
    assert len(large.frame) > 50
    assert "there is none to compare it with" in large.summary
    assert "n" in large.own_columns  # published figures are of other images


def test_a_table_without_boards_is_one(store: ResultStore) -> None:
    (board,) = boards_of(pd.DataFrame({"rank": [1], "model": ["a"], "mean_ce": [2.0]}))
    assert (board.title, board.summary) == ("", "")
    make_record(store, [None] * 3)
    assert boards_of(leaderboard(store.folder).iloc[:0]) == []


def test_data_sets_are_cut_to_what_tells_them_apart() -> None:
    deep = "/data/projects/2026-{}/cifar10-jpeg-quality-75-subset-12000.npz"
    names = ["cifar10", "npz:a.npz", "folder:/a/place/not/too/deep/images", *(f"npz:{deep.format(i)}" for i in (3, 4))]
    short = short_datasets(names)
    assert list(short.values()) == ["cifar10", "folder:…/images", *(short[name] for name in names[3:]), "npz:a.npz"]
    assert short[names[3]] == "npz:…/2026-3/cifar10-jpeg-…et-12000.npz"
    assert len(set(short.values())) == len(names)
    assert short_datasets([names[3]])[names[3]] == "npz:…/cifar10-jpeg-…et-12000.npz"


def test_names_keep_both_ends() -> None:
    assert cut("short", 5) == "short"
    assert cut("a-long-name-seed7", 9) == "a-lo…eed7"
