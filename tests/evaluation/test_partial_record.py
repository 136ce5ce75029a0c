"""An evaluation stopped by a time limit: its record says so, and the same command goes on from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustbench_gkl.cli import run
from robustbench_gkl.models import create_model
from robustbench_gkl.results import ResultStore
from robustbench_gkl.runs import Run, RunConfig


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    checkpoint = Run(tmp_path / "runs" / "net")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model("tiny-cnn", num_classes=10, input_shape=(1, 8, 8))
    checkpoint.create(
        RunConfig(
            name="net",
            arch="tiny-cnn",
            num_classes=10,
            input_shape=(1, 8, 8),
            dataset="digits",
            created="2026-01-01T00:00:00+00:00",
            environment={},
        )
    )
    checkpoint.save_weights("last", model)
    folders = ["--checkpoints-dir", str(tmp_path / "runs"), "--results-dir", str(tmp_path / "results")]
    attacks = ["--attack", "apgd-ce:steps=5", "--attack", "square:queries=20"]
    return ["eval", "net", "--n", "40", "--eps", "0.01", "-q", "--device", "cpu", *attacks, *folders]


def test_a_partial_record_is_marked_and_replaced_by_going_on(arguments: list[str], tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    assert run([*arguments, "--time-limit", "0.000001"]) == 0
    (partial,) = store.records()
    assert partial.partial
    assert run(arguments) == 0
    (whole,) = store.records()
    assert whole.id == partial.id
    assert not whole.partial
    assert len(whole.attacks) == 2
    assert not list((tmp_path / "results" / "verdicts").glob("*.jsonl"))


def test_overwriting_a_partial_record_begins_afresh(arguments: list[str], tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    run([*arguments, "--time-limit", "0.000001"])
    assert run([*arguments, "--overwrite"]) == 0
    (whole,) = store.records()
    assert not whole.partial


def test_search_precision_is_part_of_the_protocol(arguments: list[str], tmp_path: Path) -> None:
    run(arguments)
    run([*arguments, "--search-precision", "bf16"])
    protocols = {record.protocol_sha256 for record in ResultStore(tmp_path / "results").records()}
    assert len(protocols) == 2


@pytest.mark.parametrize("text", ["1x", "0", "-3s", "nan", ""])
def test_a_time_limit_that_is_none(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "--time-limit", text]) == 2
    assert "--time-limit must be a time above 0" in capsys.readouterr().err
