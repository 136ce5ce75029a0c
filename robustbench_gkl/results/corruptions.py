"""Evaluations on corrupted images: their records, where they are kept, and their leaderboard. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, model_validator

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.validation import user_error
from robustbench_gkl.results.reading import read_table, without_control_characters
from robustbench_gkl.results.record import ModelInfo, Part, canonical_hash
from robustbench_gkl.results.record_files import RecordFiles
from robustbench_gkl.results.statistics import wilson_interval

if TYPE_CHECKING:
    import pandas as pd

EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Published beside the fifteen common corruptions for validation; they are shown and not part of the mean."""
Counts = tuple[int, int, int, int, int]

COLUMNS = (
    *("rank", "model", "loss", "arch", "dataset", "n", "corruptions", "mean_corruption_acc", "ci_low", "ci_high"),
    *(f"severity_{severity}" for severity in range(1, 6)),
    *("params", "eval_seconds"),
)


class CorruptionData(Part):
    """On which images."""

    dataset: str
    """The folder's name."""
    sha256: str
    """Hash of the corruptions' names and of the evaluated pixels and labels."""
    n: int = Field(ge=1)
    """Images of each corruption and severity: the first so many."""


class CorruptionRecord(Part):
    """One evaluation on corrupted images. Immutable; its id is a hash of what decides the result."""

    schema_version: Literal[1] = 1
    """The version that the file was written in."""
    id: str
    """``NAME-HASH``, of which the file is named; the hash is of model and images."""
    created: str
    """When the record was made: UTC, ISO 8601."""
    model: ModelInfo
    data: CorruptionData
    correct: dict[str, Counts] = Field(min_length=1)
    """For each corruption the images classified correctly at severities 1 to 5."""
    batch_size: int
    """Images at a time."""
    seconds: float
    """Wall time of reading the images and predicting them."""
    environment: dict[str, str]
    """Versions, device, threads and git commit."""

    @model_validator(mode="after")
    def _consistent(self) -> CorruptionRecord:
        for name, counts in self.correct.items():
            if not all(0 <= count <= self.data.n for count in counts):
                raise ValueError(f"{name} has counts outside 0..{self.data.n}, the images of each severity")
        return self

    def text(self) -> str:
        """Return the content of the record's file."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def read(cls, content: bytes, *, what: str) -> CorruptionRecord:
        """Return the record in a file's content, which ``what`` names in messages.

        Raises:
            UserError: it is broken.
        """
        values = without_control_characters(read_table(content, what=what), content)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise user_error(error, what=f"{what} is broken") from None

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


def corruption_id(*, name: str, model_sha256: str, data_sha256: str) -> str:
    """Return ``NAME-HASH``: the same for the same model and images; a run's model is known by its weights alone."""
    return f"{name}-{canonical_hash(['corruptions', model_sha256, data_sha256])[:12]}"


def corruption_files(results_dir: Path, *, strict: bool) -> RecordFiles[CorruptionRecord]:
    """Return the records on corrupted images in a results folder; ``strict`` refuses a broken one."""
    folder = results_dir / "corruptions"
    return RecordFiles(folder, lambda content, what: CorruptionRecord.read(content, what=what), strict=strict)


def corruption_leaderboard(
    results_dir: str | Path = "results", *, dataset: str | None = None, strict: bool = False
) -> pd.DataFrame:
    """Return the leaderboard over all records on corrupted images, one row a model.

    Only rows on the same images are ranked against each other; equal accuracies share a rank.

    Args:
        results_dir: the folder with ``corruptions/``.
        dataset: only rows on the folder of this name, such as ``"CIFAR-10-C"``.
        strict: refuse a broken record instead of passing it by.

    Returns:
        Columns ``COLUMNS``; accuracies and interval ends in percent, ``n`` per corruption and severity.

    Raises:
        UserError: no such folder; a broken record, if ``strict``.
    """
    import pandas as pd

    groups: dict[tuple[str, str], list[CorruptionRecord]] = defaultdict(list)
    files = corruption_files(Path(results_dir), strict=strict)
    if not files.folder.is_dir():
        raise UserError(f"there is no folder {files.folder}; evaluate a model with gklbench corruptions first")
    for record in files.all():
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
