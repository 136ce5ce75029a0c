"""Adversarial images of one model, kept and submitted against another."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandLine

from robustbench_gkl import load_dataset, load_model
from robustbench_gkl.cli import run
from robustbench_gkl.data import to_unit
from robustbench_gkl.results import Record, ResultStore

TRAIN = ("--epochs", 8, "--set", "attack.steps=1", "--set", "probe.steps=1", "--quiet")
PLACE = ("--n", 48, "--eps", "0.2")
EVAL = ("--attack", "pgd:steps=5", *PLACE)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with the runs ``a`` and ``b``, which differ in the seed."""
    folder = tmp_path_factory.mktemp("transfer") / "checkpoints"
    for seed, name in enumerate("ab"):
        arguments = ["train", "digits-trades", "--name", name, "--seed", seed, "--checkpoints-dir", folder, *TRAIN]
        assert run([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture
def two_runs(here: Path, checkpoints: Path) -> Path:
    shutil.copytree(checkpoints, here / "checkpoints")
    return here


def _record(model: str, folder: str = "results") -> Record:
    return max(
        (record for record in ResultStore(Path(folder)).records() if record.model.name == model),
        key=lambda record: record.created,
    )


def _kept(record: Record, folder: str = "results") -> Path:
    return ResultStore(Path(folder)).adversarial_path(record.id)


def test_images_of_one_model_are_an_attack_on_another(two_runs: Path, gklbench: CommandLine) -> None:
    first = gklbench("eval", "a", *EVAL, "--save-adversarial", "all")
    assert first.code == 0, first.err
    source = _record("a")
    path = _kept(source)
    assert f"adversarial images of {source.broken} of {source.broken} broken samples in {path}" in first.out
    with np.load(path) as kept:
        index, images = kept["index"], kept["images"]
    verdicts = ResultStore(Path("results")).verdicts(source)
    assert index.tolist() == verdicts["index"][verdicts["broken_by"] == "pgd-5"].tolist()
    assert source.broken > 5
    # On the model that they were made for they break the same samples, and no more.
    again = gklbench("eval", "a", "--attack", f"images:{path}", *PLACE)
    assert again.code == 0, again.err
    assert _record("a").broken == source.broken
    # On another they break what this model answers wrongly by itself.
    other = gklbench("eval", "b", "--attack", f"images:{path}", *PLACE)
    assert other.code == 0, other.err
    model = load_model("b")
    test = load_dataset("digits").load("test")
    right = model(to_unit(test.images[:48])).argmax(1) == test.labels[:48]
    wrong = model(torch.from_numpy(images)).argmax(1) != test.labels[:48][index]
    assert _record("b").broken == int((right[index] & wrong).sum()) > 0


def test_all_is_more_than_a_number_and_what_was_kept_is_counted(two_runs: Path, gklbench: CommandLine) -> None:
    assert gklbench("eval", "a", *EVAL, "--save-adversarial", 2).code == 0
    assert ResultStore(Path("results")).adversarial_count(_record("a").id) == 2
    more = gklbench("eval", "a", *EVAL, "--save-adversarial", "all")
    assert more.code == 2
    assert f"are those of 2 of {_record('a').broken} broken samples; give --overwrite" in more.err
    assert gklbench("eval", "a", *EVAL, "--save-adversarial", "all", "--overwrite").code == 0
    assert ResultStore(Path("results")).adversarial_count(_record("a").id) == _record("a").broken
    assert gklbench("eval", "a", *EVAL, "--save-adversarial", "all").code == 0


def test_shards_keep_all_when_they_are_merged(two_runs: Path, gklbench: CommandLine) -> None:
    assert gklbench("eval", "a", *EVAL, "--save-adversarial", "all", "--results-dir", "one").code == 0
    for shard in ("1/2", "2/2"):
        assert gklbench("eval", "a", *EVAL, "--shard", shard).code == 0
    merged = gklbench("merge", "--save-adversarial", "all")
    assert merged.code == 0, merged.err
    with np.load(_kept(_record("a"))) as parts, np.load(_kept(_record("a", "one"), "one")) as whole:
        assert (parts["index"] == whole["index"]).all()
        assert (parts["images"] == whole["images"]).all()


@pytest.mark.parametrize("value", ["some", "-1", "1.5"])
def test_what_is_neither_a_number_nor_all_is_one_line(here: Path, gklbench: CommandLine, value: str) -> None:
    for command in (("eval", "a"), ("merge",)):
        result = gklbench(*command, "--save-adversarial", value)
        assert result.code == 2
        assert result.err == f"Error: --save-adversarial must be a number of images or all, got {value!r}\n"


def test_a_suite_submits_images(two_runs: Path, gklbench: CommandLine) -> None:
    assert gklbench("eval", "a", *EVAL, "--save-adversarial", "all").code == 0
    path = _kept(_record("a"))
    suite = Path("suite.toml")
    suite.write_text(f'models = ["b"]\n[[eval]]\nattacks = ["images:{path}"]\nn = 48\neps = "0.2"\n')
    first = gklbench("suite", suite)
    assert first.code == 0, first.out + first.err
    assert _record("b").attacks[0].label.startswith("images-")
    second = gklbench("suite", suite)
    assert second.code == 0, second.err
    assert "already" in second.out or "done" in second.out


def test_images_that_are_too_large_to_be_kept_are_one_line_before_the_work(
    two_runs: Path, gklbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustbench_gkl.evaluation.recorded.MOST_KEPT", 1000)
    result = gklbench("eval", "a", *EVAL, "--save-adversarial", "all")
    assert result.code == 2
    assert "48 images take" in result.err
    assert "evaluate fewer with --n" in result.err
    assert not list(ResultStore(Path("results")).records())
