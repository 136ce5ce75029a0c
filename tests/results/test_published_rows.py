"""RobustBench's published models beside ours on a leaderboard."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from command_line import CommandLine
from synthetic_records import make_record, outcome

from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.export import save_model_info
from robustbench_gkl.results.published_models import published_models
from robustbench_gkl.results.published_rows import with_published


def _add(store: ResultStore, model: str, stands: int, *, attack: str = "autoattack", dataset: str = "cifar10") -> None:
    broken = outcome(stands=stands, broken=1000 - stands, by="autoattack" if attack == "autoattack" else "pgd-20")
    make_record(store, broken, model=model, attacks=(attack,), dataset=dataset, norm="linf", eps="8/255")


def test_models_of_the_same_board_stand_where_their_robust_accuracy_puts_them(store: ResultStore) -> None:
    _add(store, "good", 650)
    _add(store, "fair", 560)
    _add(store, "weakly-attacked", 900, attack="pgd-20")
    ours = leaderboard(store.folder)
    frame = with_published(ours)
    measured = frame[frame["checks"] != "published"]
    assert measured["model"].tolist() == ours["model"].tolist() == ["good", "fair", "weakly-attacked"]
    assert measured["rank"].tolist() == ours["rank"].tolist()
    theirs = frame[frame["checks"] == "published"]
    expected = {m.name for m in published_models() if (m.dataset, m.norm, str(m.eps)) == ("cifar10", "linf", "8/255")}
    assert expected <= set(theirs["model"])
    assert theirs["rank"].isna().all()
    assert theirs["tier"].isna().all()
    # Both are in one order, down to the last row of those that completed AutoAttack.
    completed = frame[frame["model"] != "weakly-attacked"]["worst_case_acc"]
    assert completed.is_monotonic_decreasing
    assert frame["model"].iloc[-1] == "weakly-attacked"


def test_the_best_known_accuracy_counts_where_it_is_below_autoattacks(store: ResultStore) -> None:
    _add(store, "mine", 600)
    rows = with_published(leaderboard(store.folder)).set_index("model")
    here = [m for m in published_models() if (m.dataset, m.norm, str(m.eps)) == ("cifar10", "linf", "8/255")]
    lower = [m for m in here if m.external is not None and m.autoattack is not None and m.external < m.autoattack]
    assert lower
    for model in lower:
        row = rows.loc[model.name]
        assert (row["clean_acc"], row["autoattack"]) == (model.clean, model.autoattack)
        assert row["worst_case_acc"] == model.external


@pytest.mark.parametrize(("dataset", "eps"), [("npz:cifar10.npz", "8/255"), ("digits", "8/255"), ("cifar10", "7/255")])
def test_other_boards_get_no_models(store: ResultStore, dataset: str, eps: str) -> None:
    make_record(store, outcome(stands=5, broken=5), model="mine", dataset=dataset, norm="linf", eps=eps)
    names = set(with_published(leaderboard(store.folder))["model"])
    assert not names & {model.name for model in published_models()}


def test_a_radius_is_compared_exactly(store: ResultStore) -> None:
    make_record(store, outcome(stands=5, broken=5), model="mine", dataset="cifar10", norm="linf", eps="0.031")
    names = set(with_published(leaderboard(store.folder))["model"])
    at = {model.name for model in published_models() if model.eps is not None and str(model.eps) == "31/1000"}
    assert names & {model.name for model in published_models()} == at


def test_a_table_without_rows_gets_those_of_the_data_set_and_radius(store: ResultStore) -> None:
    make_record(store, outcome(stands=5, broken=5), model="mine")
    frame = with_published(leaderboard(store.folder, dataset="imagenet"), dataset="imagenet", eps="4/255")
    assert len(frame) == sum(model.dataset == "imagenet" and model.norm == "linf" for model in published_models())
    assert set(frame["threat"]) == {"linf 4/255"}
    assert set(frame["n"]) == {5000}
    assert with_published(leaderboard(store.folder, dataset="imagenet"), dataset="imagenet", eps="1/255").empty


def test_the_command_marks_them_in_every_form(store: ResultStore, gklbench: CommandLine, tmp_path: Path) -> None:
    _add(store, "mine", 560)
    forms = {form: tmp_path / f"t.{form}" for form in ("csv", "markdown", "latex", "json", "html")}
    options = [item for form, path in forms.items() for item in (f"--{form}", path)]
    result = gklbench("leaderboard", "--published", "--results-dir", store.folder, *options)
    assert result.code == 0, result.err
    name = "Wang2023Better_WRN-70-16"
    for form, path in forms.items():
        text = path.read_text().replace("\\_", "_")
        assert name in text, form
        assert "published" in text, form
    table = pd.read_csv(forms["csv"])
    (accuracy,) = table.loc[table["model"] == name, "worst_case_acc"]
    assert accuracy > 70
    assert 0 < table["model"].tolist().index("mine") < len(table) - 1
    assert {row["checks"] for row in json.loads(forms["json"].read_text())} == {"PASS", "published"}
    shown = gklbench("leaderboard", "--published", "--results-dir", store.folder, "--where", "checks=published")
    assert name in shown.out
    assert "mine" not in shown.out


def test_published_models_are_not_handed_on_as_ours(store: ResultStore, tmp_path: Path) -> None:
    _add(store, "mine", 560)
    written = save_model_info(with_published(leaderboard(store.folder)), tmp_path)
    assert [path.stem for path in written] == ["mine"]


def test_families_over_seeds_stand_beside_them_too(store: ResultStore) -> None:
    for seed, stands in enumerate((560, 562)):
        broken = outcome(stands=stands, broken=1000 - stands, by="autoattack")
        make_record(
            store, broken, model=f"m{seed}", train_seed=seed, attacks=("autoattack",), dataset="cifar10", eps="8/255"
        )
    frame = with_published(leaderboard(store.folder, average_seeds=True))
    (place,) = frame.index[frame["checks"] != "published"]
    assert frame.loc[place, "worst_case_acc"] == 56.1
    assert frame["worst_case_acc"].is_monotonic_decreasing
    assert 0 < place < len(frame) - 1
