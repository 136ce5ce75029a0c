"""Leaderboards as LaTeX, RobustBench files, over seeds, with published rows, sorted and filtered."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import CommandLine
from synthetic_records import make_record, outcome

from robustbench_gkl.results import ResultStore, leaderboard
from robustbench_gkl.results.export import latex, markdown, save_model_info
from robustbench_gkl.results.published_rows import with_published
from robustbench_gkl.results.record import pack_standing


def test_a_rank_is_shared_where_the_paired_test_sees_no_difference(store: ResultStore) -> None:
    for model, stands in (("a", 80), ("b", 77), ("c", 60), ("d", 59), ("e", 20)):
        make_record(store, outcome(stands=stands, broken=100 - stands), model=model)
    assert leaderboard(store.folder)["rank"].tolist() == [1, 1, 3, 3, 5]


@pytest.mark.parametrize("options", [("--seeds",), ("--reference", "autoattack")])
def test_model_info_is_of_single_models_under_autoattack(
    options: tuple[str, ...], store: ResultStore, gklbench: CommandLine, tmp_path: Path
) -> None:
    make_record(store, outcome(stands=5, broken=5, by="autoattack"), attacks=("autoattack",))
    result = gklbench("leaderboard", "--results-dir", store.folder, "--model-info", tmp_path, *options)
    assert result.code == 2
    assert "leave out --seeds and --reference" in result.err


def test_model_info_of_several_radii_are_files_of_their_own(
    store: ResultStore, gklbench: CommandLine, tmp_path: Path
) -> None:
    for stands, eps in ((6, "4/255"), (3, "8/255")):
        broken_by = outcome(stands=stands, broken=10 - stands, by="autoattack")
        make_record(store, broken_by, attacks=("autoattack",), eps=eps)
    assert gklbench("leaderboard", "--results-dir", store.folder, "--model-info", tmp_path).code == 0
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "digits/Linf").iterdir()}
    assert {(info["eps"], info["autoattack_acc"]) for info in found.values()} == {
        ("4/255", "60.00"),
        ("8/255", "30.00"),
    }
    assert "model.json" in found


def test_a_name_stays_in_its_cell_of_a_markdown_table() -> None:
    text = markdown(pd.DataFrame({"model": ["a\nb", "c\\|d", "<b>"], "clean_acc": [1.0, 2.0, 3.0]}))
    assert text.splitlines()[2:] == [r"| a b | 1.00 |", r"| c\\\|d | 2.00 |", r"| \<b> | 3.00 |"]


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


def test_model_info_takes_autoattack_wherever_it_ran_and_nothing_else(store: ResultStore, tmp_path: Path) -> None:
    def add(model: str, by: str, *attacks: str, **options: Any) -> None:
        make_record(store, outcome(stands=50, broken=50, by=by), model=model, attacks=attacks, **options)

    add("after", "autoattack", "pgd-20", "autoattack")
    add("quick", "apgd-ce", "autoattack:version=quick")
    add("partial", "autoattack", "autoattack", partial=True)
    add("plus", "apgd-ce", "autoattack:version=plus")
    add("plus", "autoattack", "autoattack", partial=True)
    add("clean", "clean", "none", eps="0")
    add("both", "autoattack", "autoattack", engine="reference")
    make_record(store, outcome(stands=40, broken=60, by="autoattack"), model="both", attacks=("autoattack",))
    found = {path.stem: json.loads(path.read_text()) for path in save_model_info(leaderboard(store.folder), tmp_path)}
    assert {name: info["autoattack_acc"] for name, info in found.items()} == {"after": "50.00", "both": "40.00"}


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


def test_published_rows_are_those_of_the_data_set_asked_for(
    store: ResultStore, gklbench: CommandLine, tmp_path: Path
) -> None:
    make_record(store, outcome(stands=5, broken=5), model="mine")
    arguments = ("leaderboard", "--published", "--results-dir", store.folder, "--csv", tmp_path / "t.csv")
    none = gklbench(*arguments)
    assert "no published results on these data sets; there are some on cifar10, cifar100" in none.out
    assert pd.read_csv(tmp_path / "t.csv")["model"].tolist() == ["mine"]
    some = gklbench(*arguments, "--dataset", "cifar10", "--sort", "-clean_acc")
    assert "no published" not in some.out
    frame = pd.read_csv(tmp_path / "t.csv")
    assert set(frame["dataset"]) == {"cifar10"}
    assert frame["clean_acc"].is_monotonic_decreasing
    assert list(frame).index("autoattack") == list(frame).index("worst_case_acc") - 1


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
    assert "more training seeds" in gklbench("leaderboard", *folder, "--seeds").out
    assert "did you mean 'model'" in gklbench("leaderboard", *folder, "--sort", "modell").err
    assert "COLUMN=VALUE" in gklbench("leaderboard", *folder, "--where", "loss").err
