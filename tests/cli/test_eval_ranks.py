"""An evaluation by several processes of torchrun, or in shards, ends in the record of a single one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine, ranks

from robustbench_gkl.cli import run
from robustbench_gkl.results import Record, ResultStore

EVAL = ("eval", "net", "--eps", "0.08", "--device", "cpu")
CHEAP = (*EVAL, "--n", 60, "--attack", "pgd:steps=3", "--attack", "autoattack:version=quick")
WHOLE = (*EVAL, "--n", 12, "--attack", "pgd:steps=3", "--attack", "autoattack")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints folder with the run ``net``: right without an attack, and not easily broken."""
    folder = tmp_path_factory.mktemp("net") / "checkpoints"
    arguments = ["train", "digits-standard", "--name", "net", "--epochs", "4", "--set", "probe.steps=2", "--quiet"]
    assert run([*arguments, "--checkpoints-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def workplace(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run in it, which is the current one."""
    shutil.copytree(net, tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_in(folder: str) -> Record:
    (record,) = ResultStore(Path(folder)).records()
    return record


def told(record: Record) -> dict[str, Any]:
    """What a record says but for when, where and how fast; calls differ a little with how samples fall into batches."""
    said = record.model_dump(exclude={"created", "seconds", "batch_size", "config", "environment", "sha256"})
    for attack in said["attacks"]:
        for stage in attack["stages"]:
            del stage["seconds"], stage["forwards"], stage["backwards"]
    return said


def calls(record: Record) -> int:
    return sum(stage.forwards + stage.backwards for attack in record.attacks for stage in attack.stages)


def test_two_ranks_make_the_record_of_one_process(workplace: Path, gklbench: CommandLine) -> None:
    arguments = (*CHEAP, "--save-adversarial", 4)
    assert gklbench(*arguments, "--results-dir", "one").code == 0
    started = ranks(*arguments, "--results-dir", "two", cwd=workplace)
    out, err = started.communicate(timeout=600)
    assert started.returncode == 0, err
    assert out.count("record net-") == out.count("by 2 ranks") == 1
    one, two = record_in("one"), record_in("two")
    assert 0 < two.worst_case_acc < two.clean_acc
    assert told(one) == told(two)
    assert calls(two) == pytest.approx(calls(one), rel=0.02)
    assert two.environment["processes"] == "2"
    assert not list(Path("two/verdicts").glob("*.partial*"))
    (saved,), (same,) = (list(Path(folder, "adversarial").iterdir()) for folder in ("one", "two"))
    assert saved.read_bytes() == same.read_bytes()


@pytest.mark.slow
def test_a_killed_rank_loses_nothing(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*WHOLE, "--results-dir", "one").code == 0
    started = ranks(*WHOLE, "--results-dir", "two", cwd=workplace)
    parts = Path("two/verdicts")
    wait_for(lambda: sum("fab-t" in path.read_text() for path in parts.glob("*.jsonl")) == 2)
    os.kill(child(started.pid, rank=1), signal.SIGKILL)
    _, err = started.communicate(timeout=600)
    assert started.returncode != 0
    assert err.count("Error: interrupted; the same command goes on from here") == 1
    assert not list(Path("two/records").iterdir())
    before = {path.name: path.read_text() for path in parts.glob("*.jsonl")}
    again = ranks(*WHOLE, "--results-dir", "two", cwd=workplace)
    _, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert len(before) == 2
    assert told(record_in("one")) == told(record_in("two"))


def child(pid: int, *, rank: int) -> int:
    """Return the process of that rank that torchrun has started."""
    for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{number}/environ").read_text().split("\0"):
            return int(number)
    raise AssertionError(f"torchrun has no process of rank {rank}")


def wait_for(happened: Any) -> None:
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_bad_input_is_one_line_by_rank_0(workplace: Path) -> None:
    started = ranks("eval", "nobody", "--attack", "fgsm", cwd=workplace)
    _, err = started.communicate(timeout=600)
    assert started.returncode != 0
    assert err.count("Error: no run 'nobody'") == 1
    assert err.count("exitcode  : 2") >= 1
    assert "exitcode  : -" not in err
    assert 'Traceback (most recent call last):\n  File "<string>"' not in err


def test_shards_make_the_record_of_one_process(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*CHEAP, "--results-dir", "one", "--save-adversarial", 4).code == 0
    for number in (3, 1):
        shard = gklbench(*CHEAP, "--shard", f"{number}/3")
        assert shard.code == 0, shard.err
        assert "of 20 samples stand" in shard.out
        assert "gklbench merge net-" in shard.out
    files = sorted(Path("results/verdicts").iterdir())
    missing = gklbench("merge")
    assert missing.code == 2
    assert "20 of 60 samples are missing: shard 2/3 is not there" in missing.err
    assert sorted(Path("results/verdicts").iterdir()) == files
    assert not list(ResultStore(Path("results")).records())
    assert gklbench(*CHEAP, "--shard", "2/3", "--quiet").code == 0
    merged = gklbench("merge", "--save-adversarial", 4)
    assert merged.code == 0, merged.err
    assert told(record_in("results")) == told(record_in("one"))
    assert calls(record_in("results")) == pytest.approx(calls(record_in("one")), rel=0.02)
    assert not list(Path("results/verdicts").glob("*.partial*"))
    (saved,), (same,) = (list(Path(folder, "adversarial").iterdir()) for folder in ("one", "results"))
    assert saved.read_bytes() == same.read_bytes()
    assert "already evaluated" in gklbench(*CHEAP, "--shard", "1/3").out


def test_an_unfinished_shard_is_named_and_finished(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*CHEAP, "--shard", "1/2", "--time-limit", "0.000001", "--quiet").code == 0
    assert gklbench(*CHEAP, "--shard", "2/2", "--quiet").code == 0
    assert "shard 1/2 is not finished" in gklbench("merge").err
    assert gklbench(*CHEAP, "--shard", "1/2", "--quiet").code == 0
    assert gklbench("merge", "--quiet").code == 0


def test_any_process_goes_on_from_shards(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*CHEAP, "--results-dir", "one", "--quiet").code == 0
    assert gklbench(*CHEAP, "--shard", "1/3", "--quiet").code == 0
    assert gklbench(*CHEAP, "--quiet").code == 0
    assert told(record_in("results")) == told(record_in("one"))
    assert not list(Path("results/verdicts").glob("*.partial*"))


def test_the_images_found_before_an_interruption_are_looked_at_again(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*CHEAP, "--results-dir", "one", "--quiet").code == 0
    first = (*EVAL, "--n", 60, "--attack", "pgd:steps=3", "--shard", "1/1")
    assert gklbench(*first, "--quiet").code == 0
    (part,) = Path("results/verdicts").glob("*.images")
    size = np.dtype("<i8").itemsize + 64 * 4
    broken = record_in("one").attacks[0].stages[0].broken
    assert part.stat().st_size == broken * size
    with part.open("ab") as file:
        file.write(b"torn")
    assert gklbench("merge", "--quiet").code == 0
    (check,) = [check for check in record_in("results").checks if check.name == "reverified"]
    assert check.figure.startswith(f"{broken} of {broken} adversarial images in other batches still fool")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shard", "5/4"), "--shard must be K/N with K from 1 to N"),
        (("--shard", "1/100"), "there are only 60 samples"),
        (("--shard", "1/2", "--fail-under", "10"), "--shard goes with neither"),
        (("--shard", "1/2", "--save-adversarial", "1"), "--shard goes with neither"),
    ],
)
def test_shards_that_cannot_be(
    workplace: Path, gklbench: CommandLine, arguments: tuple[str, ...], message: str
) -> None:
    result = gklbench(*CHEAP, *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert message in result.err


def test_nothing_to_merge(workplace: Path, gklbench: CommandLine) -> None:
    assert "there are no parts to join" in gklbench("merge").err
    assert "there are no parts of net-0" in gklbench("merge", "net-0").err
    assert gklbench("merge").code == 2


def test_parts_of_another_model_are_refused(workplace: Path, gklbench: CommandLine) -> None:
    assert gklbench(*CHEAP, "--shard", "1/1", "--quiet").code == 0
    arguments = ("train", "digits-standard", "--name", "net", "--epochs", 1, "--overwrite", "--quiet")
    assert gklbench(*arguments, "--set", "train_size=64", "--set", "probe.steps=1").code == 0
    refused = gklbench("merge")
    assert refused.code == 2
    assert "other weights or images than those of run net" in refused.err
    assert list(Path("results/verdicts").glob("*.jsonl"))
