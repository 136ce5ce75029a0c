"""Records of evaluations on corrupted images, and their leaderboard. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_gkl.config import one_line
from robustbench_gkl.errors import UserError
from robustbench_gkl.files import writable_folder, write_atomically
from robustbench_gkl.results.record import ModelInfo, canonical_hash
from robustbench_gkl.results.statistics import wilson_interval

EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Published beside the fifteen common corruptions for validation; they are shown and not part of the mean."""
COLUMNS = (
    *("rank", "model", "loss", "arch", "dataset", "n", "corruptions", "mean_corruption_acc", "ci_low", "ci_high"),
    *(f"severity_{severity}" for severity in range(1, 6)),
    *("params", "eval_seconds"),
)

Counts = tuple[int, int, int, int, int]


class CorruptionData(BaseModel):
    """On which images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    """The folder's name."""
    sha256: str
    """Hash of the corruptions' names and of the evaluated pixels and labels."""
    n: int
    """Images of each corruption and severity: the first so many."""


class CorruptionRecord(BaseModel):
    """One evaluation on corrupted images. Immutable; its id is a hash of what decides the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    id: str
    created: str
    model: ModelInfo
    data: CorruptionData
    correct: dict[str, Counts]
    """For each corruption the images classified correctly at severities 1 to 5."""
    batch_size: int
    seconds: float
    environment: dict[str, str]

    @property
    def counted(self) -> tuple[str, ...]:
        """The corruptions that the mean is over: all but the published extra ones, unless there are no others."""
        return tuple(name for name in self.correct if name not in EXTRA) or tuple(self.correct)

    def accuracy(self, name: str, severity: int) -> float:
        """Return the accuracy on one corruption at one severity (1 to 5), in percent."""
        return 100 * self.correct[name][severity - 1] / self.data.n

    def severity_acc(self, severity: int) -> float:
        """Return the mean accuracy over the counted corruptions at one severity, in percent."""
        return sum(self.accuracy(name, severity) for name in self.counted) / len(self.counted)

    @property
    def right(self) -> int:
        """Correct answers over all counted corruptions and severities."""
        return sum(sum(self.correct[name]) for name in self.counted)

    @property
    def mean_corruption_acc(self) -> float:
        """The mean accuracy over the counted corruptions and the five severities, in percent."""
        return 100 * self.right / (5 * len(self.counted) * self.data.n)

    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the mean corruption accuracy for ``n`` samples, in percent.

        The views of an image are not independent: counting each as a sample would make the interval too short. Each
        image counts once, as if its views all fell or stood together, so that the interval is rather too long.
        """
        low, high = wilson_interval(round(self.mean_corruption_acc * self.data.n / 100), self.data.n)
        return 100 * low, 100 * high


def corruption_id(*, name: str, weights_sha256: str, data_sha256: str) -> str:
    """Return ``NAME-HASH``: the same for the same weights and images."""
    return f"{name}-{canonical_hash(['corruptions', weights_sha256, data_sha256])[:12]}"


class CorruptionStore:
    """``corruptions/ID.json`` in the results folder."""

    def __init__(self, results_dir: Path) -> None:
        self.folder = results_dir / "corruptions"

    def prepare(self) -> None:
        """Make the folder and show that it can be written to.

        Raises:
            UserError: it cannot.
        """
        writable_folder(self.folder, what="the results folder")

    def save(self, record: CorruptionRecord) -> None:
        """Write a record."""
        write_atomically(self._path(record.id), record.model_dump_json(indent=1) + "\n")

    def load(self, identity: str) -> CorruptionRecord | None:
        """Return a record, or None if there is none of that id.

        Raises:
            UserError: the file is broken.
        """
        path = self._path(identity)
        return _read(path) if path.exists() else None

    def records(self) -> Iterator[CorruptionRecord]:
        """Yield all records, by file name.

        Raises:
            UserError: the folder does not exist, or a file is broken.
        """
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}; evaluate a model with gklbench corruptions first")
        for path in sorted(self.folder.glob("*.json")):
            yield _read(path)

    def _path(self, identity: str) -> Path:
        return self.folder / f"{identity}.json"


def _read(path: Path) -> CorruptionRecord:
    try:
        return CorruptionRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise one_line(error, what=f"record {path} is broken") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def corruption_leaderboard(results_dir: str | Path = "results", *, dataset: str | None = None) -> pd.DataFrame:
    """Return the leaderboard over all records on corrupted images, one row a model.

    Only rows on the same images are ranked against each other; equal accuracies share a rank.

    Args:
        results_dir: the folder with ``corruptions/``.
        dataset: only rows on the folder of this name, such as ``"CIFAR-10-C"``.

    Returns:
        Columns ``COLUMNS``; accuracies and interval ends in percent, ``n`` per corruption and severity.

    Raises:
        UserError: no such folder, or a broken record.
    """
    groups: dict[tuple[str, str], list[CorruptionRecord]] = defaultdict(list)
    for record in CorruptionStore(Path(results_dir)).records():
        if dataset is None or record.data.dataset == dataset:
            groups[record.data.dataset, record.data.sha256].append(record)
    rows = []
    for _, group in sorted(groups.items()):
        group.sort(key=lambda record: (-record.right, record.model.name))
        for record in group:
            rank = 1 + sum(other.right > record.right for other in group)
            rows.append(_cells(record, rank))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"rank": "int64", "n": "int64", "corruptions": "int64", "params": "int64"})


def _cells(record: CorruptionRecord, rank: int) -> dict[str, object]:
    low, high = record.interval()
    return {
        "rank": rank,
        "model": record.model.name,
        "loss": record.model.loss or "",
        "arch": record.model.arch,
        "dataset": record.data.dataset,
        "n": record.data.n,
        "corruptions": len(record.counted),
        "mean_corruption_acc": round(record.mean_corruption_acc, 2),
        "ci_low": round(low, 2),
        "ci_high": round(high, 2),
        **{f"severity_{severity}": round(record.severity_acc(severity), 2) for severity in range(1, 6)},
        "params": record.model.params,
        "eval_seconds": round(record.seconds, 1),
    }
