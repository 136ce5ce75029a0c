"""Records of evaluations on corrupted images. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_gkl.core.validation import user_error
from robustbench_gkl.results.record import ModelInfo, canonical_hash
from robustbench_gkl.results.statistics import wilson_interval

EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Published beside the fifteen common corruptions for validation; they are shown and not part of the mean."""
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

    def text(self) -> str:
        """Return the content of the record's file."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def read(cls, content: bytes, *, what: str) -> CorruptionRecord:
        """Return the record in a file's content, which ``what`` names in messages.

        Raises:
            UserError: it is broken.
        """
        try:
            return cls.model_validate_json(content)
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


def corruption_id(*, name: str, weights_sha256: str, data_sha256: str) -> str:
    """Return ``NAME-HASH``: the same for the same weights and images."""
    return f"{name}-{canonical_hash(['corruptions', weights_sha256, data_sha256])[:12]}"
