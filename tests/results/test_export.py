"""Leaderboards as LaTeX, RobustBench files, over seeds, with published rows, sorted and filtered."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import CommandLine
from scipy import stats
from synthetic_records import make_record, outcome

from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.export import latex, save_model_info, with_published
from robustbench_gkl.results.record import pack_standing


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_a_rank_is_shared_where_the_paired_test_sees_no_difference(store: ResultStore) -> None:
    for model, stands in (("a", 80), ("b", 77), ("c", 60), ("d", 59), ("e", 20)):
        make_record(store, outcome(stands=stands, broken=100 - stands), model=model)
    assert leaderboard(store.folder)["rank"].tolist() == [1, 1, 3, 3, 5]


def test_latex_is_escaped_and_complete(store: ResultStore) -> None:
    make_record(store, outcome(stands=5, broken=5), model="gkl_50%", dataset="a&b")
    text = latex(leaderboard(store.folder))
    assert r"gkl\_50\%" in text
    assert r"a\&b" in text
    lines = text.splitlines()
    assert lines[0].startswith(r"\begin{tabular}{r")
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    columns = len(lines[0].rpartition("{")[2].rstrip("}"))
    assert all(line.count(" & ") == columns - 1 for line in lines if line.endswith(r"\\"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(store: ResultStore, tmp_path: Path) -> None:
    make_record(store, outcome(stands=5, broken=5), model="gkl_50%~^\\")
    body = latex(leaderboard(store.folder))
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body + r"\end{document}"
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_model_info_has_the_keys_that_robustbench_reads(store: ResultStore, tmp_path: Path) -> None:
    make_record(store, outcome(stands=5, broken=5, by="autoattack"), model="a", attacks=("autoattack",), eps="8/255")
    make_record(store, outcome(stands=5, broken=5), model="b", attacks=("pgd-20",), eps="8/255")
    (path,) = save_model_info(leaderboard(store.folder), tmp_path / "info")
    assert path.relative_to(tmp_path / "info") == Path("digits/Linf/a.json")
    info = json.loads(path.read_text())
    assert {"name", "dataset", "architecture", "eps", "clean_acc", "autoattack_acc", "unreliable"} <= set(info)
    assert (info["eps"], info["clean_acc"], info["autoattack_acc"]) == ("8/255", "100.00", "50.00")


def test_published_rows_are_marked_and_not_ranked(store: ResultStore) -> None:
    make_record(
        store, outcome(stands=5, broken=5, by="autoattack"), model="mine", dataset="cifar10", attacks=("autoattack",)
    )
    frame = with_published(leaderboard(store.folder))
    published = frame[frame["checks"] == "published"]
    assert frame["model"].iloc[0] == "mine"
    assert set(published["dataset"]) == {"cifar10"}
    assert published["rank"].isna().all()
    assert published["autoattack"].is_monotonic_decreasing
    ours = published[published["model"] == "GKL-AT (basic)"].iloc[0]
    assert (ours["clean_acc"], ours["autoattack"]) == (85.31, 57.13)


def test_models_that_differ_in_the_seed_are_averaged(store: ResultStore) -> None:
    standing = [50, 53, 59]
    for seed, stands in enumerate(standing):
        make_record(store, outcome(stands=stands, broken=100 - stands), model=f"gkl-seed{seed}", train_seed=seed)
    make_record(store, outcome(stands=40, broken=60), model="other", train_seed=0, loss="trades")
    first, second = leaderboard(store.folder, average_seeds=True).to_dict("records")
    assert (first["model"], first["seeds"], first["rank"]) == ("gkl-seed", 3, 1)
    assert first["worst_case_acc"] == pytest.approx(np.mean(standing))
    assert first["spread"] == pytest.approx(np.std(standing, ddof=1), abs=0.01)
    interval = stats.t.interval(0.95, 2, loc=np.mean(standing), scale=stats.sem(standing))
    assert (first["ci_low"], first["ci_high"]) == pytest.approx(interval, abs=0.02)
    assert (second["model"], second["seeds"], second["rank"]) == ("other", 1, 2)
    assert pd.isna(second["spread"])


def test_standing_is_packed_into_the_record_and_back(store: ResultStore) -> None:
    record = make_record(store, ["clean", None, "pgd-20", None, None, None, "clean", None, None, "pgd-20"])
    expected = store.standing(record)
    packed = record.model_copy(update={"standing": pack_standing(expected)})
    assert record.stands() is None
    stands = packed.stands()
    assert stands is not None
    np.testing.assert_array_equal(stands, expected)


def test_the_command_sorts_filters_and_exports(store: ResultStore, gklbench: CommandLine, tmp_path: Path) -> None:
    for model, stands in (("a", 20), ("b", 80), ("c", 50)):
        make_record(
            store, outcome(stands=stands, broken=100 - stands, by="autoattack"), model=model, attacks=("autoattack",)
        )
    folder = ("--results-dir", store.folder)
    arguments = ("leaderboard", *folder, "--csv", tmp_path / "t.csv", "--sort")
    assert gklbench(*arguments, "worst_case_acc").code == 0
    assert pd.read_csv(tmp_path / "t.csv")["model"].tolist() == ["a", "c", "b"]
    assert gklbench(*arguments, "-model", "--where", "n=100", "--where", "loss=gkl").code == 0
    assert pd.read_csv(tmp_path / "t.csv")["model"].tolist() == ["c", "b", "a"]
    assert gklbench("leaderboard", *folder, "--latex", tmp_path / "t.tex", "--model-info", tmp_path / "i").code == 0
    assert (tmp_path / "t.tex").exists()
    assert len(list((tmp_path / "i").rglob("*.json"))) == 3
    shortened = gklbench("leaderboard", *folder, "--top", 2)
    assert "1 more rows" in shortened.out
    assert " a " not in shortened.out
    assert "spread" in gklbench("leaderboard", *folder, "--seeds").out
    assert "did you mean 'model'" in gklbench("leaderboard", *folder, "--sort", "modell").err
    assert "COLUMN=VALUE" in gklbench("leaderboard", *folder, "--where", "loss").err
