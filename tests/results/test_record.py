"""Records say the same after a round trip, and their ids are functions of what decides the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import make_record, outcome

from robustbench_gkl.results.record import Check, Record, canonical_hash, record_id
from robustbench_gkl.results.store import ResultStore


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return make_record(ResultStore(tmp_path), outcome(stands=5, broken=3, wrong=1))


def test_round_trip(record: Record) -> None:
    assert Record.model_validate_json(record.model_dump_json()) == record
    assert Record.model_validate_json(json.dumps(json.loads(record.model_dump_json(indent=1)))) == record


def test_is_frozen(record: Record) -> None:
    with pytest.raises(ValueError, match="frozen"):
        record.clean_acc = 100.0  # type: ignore[misc]


@pytest.mark.parametrize("change", [{"schema_version": 3}, {"new_key": 1}, {"clean_acc": "high"}, {"clean_acc": None}])
def test_what_is_no_record_is_refused(record: Record, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Record.model_validate_json(json.dumps(json.loads(record.model_dump_json()) | change))


def test_the_worst_check_is_the_verdict(record: Record) -> None:
    def verdict(*verdicts: str) -> str:
        checks = tuple(Check.model_validate({"name": "c", "verdict": v, "figure": ""}) for v in verdicts)
        return record.model_copy(update={"checks": checks}).verdict

    assert verdict() == "PASS"
    assert verdict("PASS", "WARN", "PASS") == "WARN"
    assert verdict("FAIL", "WARN", "PASS") == "FAIL"


def test_canonical_hash_is_of_sorted_json() -> None:
    assert canonical_hash({"a": 1, "b": [1, 2]}) == canonical_hash({"b": [1, 2], "a": 1})
    assert canonical_hash([1, 2]) != canonical_hash([2, 1])
    # The SHA-256 of "{}".
    assert canonical_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_the_id_is_a_function_of_what_decides_the_result() -> None:
    base: dict[str, Any] = {
        "name": "run",
        "model_sha256": "w",
        "data_sha256": "d",
        "threat": "linf 0.1",
        "protocol": [{"label": "pgd-20"}],
        "engine": "native",
        "seed": 0,
        "batch_size": 250,
    }
    changes = {
        "name": "other",
        "model_sha256": "w2",
        "data_sha256": "d2",
        "threat": "l2 0.1",
        "protocol": [{"label": "pgd-50"}],
        "engine": "reference",
        "seed": 1,
    }
    ids = {record_id(**base)} | {record_id(**(base | {key: value})) for key, value in changes.items()}
    assert len(ids) == 1 + len(changes)
    assert record_id(**base) == record_id(**base)
    # The published packages draw batch by batch, ours sample by sample.
    assert record_id(**base | {"batch_size": 8}) == record_id(**base)
    assert len({record_id(**base | {"engine": "reference", "batch_size": size}) for size in (8, 250)}) == 2
    assert record_id(**base).startswith("run-")
