"""Records of evaluations that never took place, for tests of what is made from records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustbench_gkl.config import TrainConfig
from robustbench_gkl.results.record import (
    AttackResult,
    Check,
    CheckVerdict,
    DataInfo,
    ModelInfo,
    Record,
    StageResult,
    ThreatInfo,
    canonical_hash,
    record_id,
)
from robustbench_gkl.results.store import VERDICT_COLUMNS, ResultStore, verdict_bytes

BrokenBy = Sequence[str | None]
"""What broke each sample: None, ``clean`` or an attack."""


def verdict_frame(broken_by: BrokenBy) -> pd.DataFrame:
    """Return the verdicts of samples of class 0."""
    stands = np.array([name is None for name in broken_by])
    clean = np.array([name == "clean" for name in broken_by])
    frame = pd.DataFrame(
        {
            "index": np.arange(len(broken_by)),
            "label": 0,
            "clean_pred": np.where(clean, 1, 0),
            "broken_by": pd.array(list(broken_by), dtype="string"),
            "adv_pred": pd.Series(np.ones(len(broken_by)), dtype="Int64").where(~stands),
            "distance": np.where(stands, np.nan, np.where(clean, 0.0, 0.1)),
        }
    )
    assert tuple(frame.columns) == VERDICT_COLUMNS
    return frame


def make_record(
    store: ResultStore,
    broken_by: BrokenBy,
    *,
    model: str = "model",
    weights: str = "",
    weights_sha256: str | None = None,
    attacks: Sequence[str] = ("pgd-20",),
    dataset: str = "digits",
    split: str = "test",
    samples: str = "",
    norm: str = "linf",
    eps: str = "0.1",
    seed: int = 0,
    created: str = "2026-01-01T00:00:00+00:00",
    verdict: CheckVerdict = "PASS",
    partial: bool = False,
    seconds: float = 1.5,
    loss: str = "gkl",
    train_seed: int = 0,
) -> Record:
    """Write the record and verdicts of one evaluation, whose attacks ran in the order given."""
    store.prepare()
    n = len(broken_by)
    content = verdict_bytes(verdict_frame(broken_by))
    protocol: list[dict[str, Any]] = [{"label": label, "stages": [{"attack": label}]} for label in attacks]
    weights_sha256 = weights_sha256 or canonical_hash([model, weights])
    data_sha256 = canonical_hash([dataset, split, samples, n])
    left = n - sum(name == "clean" for name in broken_by)
    clean_acc, results = 100 * left / n, []
    for label in attacks:
        broken = sum(name == label for name in broken_by)
        stage = StageResult(
            name=label,
            attacked=left,
            broken=broken,
            rejected=0,
            seconds=seconds,
            forwards=20 * left,
            backwards=20 * left,
        )
        left -= broken
        results.append(AttackResult(label=label, robust_acc=100 * left / n, stages=(stage,)))
    record = Record(
        id=record_id(
            name=model,
            weights_sha256=weights_sha256,
            data_sha256=data_sha256,
            threat=f"{norm} {eps}",
            protocol=protocol,
            engine="native",
            seed=seed,
        ),
        created=created,
        model=ModelInfo(
            name=model,
            arch="tiny-cnn",
            loss=loss,
            params=1234,
            weights="best",
            weights_sha256=weights_sha256,
            train_config=TrainConfig(loss=loss, seed=train_seed).model_dump(mode="json"),
        ),
        data=DataInfo(dataset=dataset, split=split, n=n, sha256=data_sha256, index_ranges=((0, n),)),
        threat=ThreatInfo(norm=norm, eps=eps),
        protocol=tuple(protocol),
        protocol_sha256=canonical_hash(protocol),
        engine="native",
        seed=seed,
        batch_size=250,
        clean_acc=clean_acc,
        attacks=tuple(results),
        worst_case_acc=100 * left / n,
        checks=(Check(name="some-check", verdict=verdict, figure="0"),),
        partial=partial,
        seconds=seconds,
        environment={"torch": "2.4"},
        verdicts_sha256=hashlib.sha256(content).hexdigest(),
    )
    store.save(record, content)
    return record


def outcome(*, stands: int, broken: int = 0, wrong: int = 0, by: str = "pgd-20") -> list[str | None]:
    """Return what broke each of so many samples: the first stand, the next are broken, the last are wrong at once."""
    return [None] * stands + [by] * broken + ["clean"] * wrong
