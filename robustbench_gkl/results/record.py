"""The record of one evaluation: everything needed to judge its numbers."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

CheckVerdict = Literal["PASS", "WARN", "FAIL"]
_SEVERITY: dict[CheckVerdict, int] = {"PASS": 0, "WARN": 1, "FAIL": 2}


def canonical_hash(value: Any) -> str:
    """Return the SHA-256 of ``value``'s canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def pack_standing(standing: NDArray[np.bool_]) -> str:
    """Return (n,) bool as base64 of its bits, the first sample in the most significant one."""
    return base64.b64encode(np.packbits(standing).tobytes()).decode()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelInfo(_Part):
    """What was evaluated."""

    name: str
    arch: str
    loss: str | None = None
    """The training loss; None for models trained elsewhere."""
    params: int
    weights: str | None = None
    """Which file of the run: ``best``, ``last`` or ``average``."""
    weights_sha256: str
    train_config: dict[str, Any] | None = None


class DataInfo(_Part):
    """On which samples."""

    dataset: str
    split: str
    n: int
    sha256: str
    """Hash of the evaluated pixels and labels."""
    index_ranges: tuple[tuple[int, int], ...]
    """The samples' indices in the split, as half-open ranges."""


class ThreatInfo(_Part):
    """Under which threat model."""

    norm: str
    eps: str

    def __str__(self) -> str:
        return f"{self.norm} {self.eps}"


class StageResult(_Part):
    """What one member of an attack did."""

    name: str
    attacked: int
    broken: int
    rejected: int
    """Candidates that left the ball or [0, 1]; they never count as successes."""
    seconds: float
    forwards: int
    """Images put through the model."""
    backwards: int


class AttackResult(_Part):
    """One column of the leaderboard."""

    label: str
    robust_acc: float
    """Percentage of all samples correct without an attack and under this attack and those run before it."""
    stages: tuple[StageResult, ...]


class Check(_Part):
    """One item of the evaluation's passport."""

    name: str
    verdict: CheckVerdict
    figure: str
    advice: str = ""


class Record(_Part):
    """One evaluation. Immutable; its id is a hash of what decides the result."""

    schema_version: Literal[1] = 1
    id: str
    created: str
    model: ModelInfo
    data: DataInfo
    threat: ThreatInfo
    protocol: tuple[dict[str, Any], ...]
    protocol_sha256: str
    engine: str
    seed: int
    batch_size: int
    clean_acc: float
    attacks: tuple[AttackResult, ...]
    worst_case_acc: float
    """Percentage of samples that stand after all attacks, pointwise."""
    checks: tuple[Check, ...]
    partial: bool = False
    seconds: float
    environment: dict[str, str]
    """Versions, device, threads, git commit, and how many processes worked on it if several."""
    verdicts_sha256: str
    standing: str = ""
    """Which samples stand, as :func:`pack_standing` writes it: enough to pair models without reading verdicts."""

    def stands(self) -> NDArray[np.bool_] | None:
        """Return (n,) bool: which samples stand, in the order of their indices; None if the record does not say."""
        if not self.standing:
            return None
        packed = np.frombuffer(base64.b64decode(self.standing), dtype=np.uint8)
        return np.unpackbits(packed, count=self.data.n).astype(bool)

    @property
    def verdict(self) -> CheckVerdict:
        """The worst of the checks."""
        return max((check.verdict for check in self.checks), key=_SEVERITY.__getitem__, default="PASS")


def record_id(
    *,
    name: str,
    weights_sha256: str,
    data_sha256: str,
    threat: str,
    protocol: Sequence[dict[str, Any]],
    engine: str,
    seed: int,
) -> str:
    """Return ``NAME-HASH``: the same for the same weights, samples, threat, protocol, engine and seed."""
    key = [weights_sha256, data_sha256, threat, list(protocol), engine, seed]
    return f"{name}-{canonical_hash(key)[:12]}"
