"""The outcome of an evaluation: the verdict on each sample and the result of each attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks import AttackSpec
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import to_unit
from robustbench_gkl.results.brief import brief
from robustbench_gkl.results.record import AttackResult, Record, StageResult, pack_standing
from robustbench_gkl.results.store import CERTIFIED, VERDICT_COLUMNS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(repr=False)
class Evaluation:
    """The outcome of an evaluation; one entry per sample in each array.

    Attributes:
        index: the samples' indices in the data set's split.
        label, clean_pred: true and predicted class.
        broken_by: None where the sample stands, ``"clean"`` where it is wrong without an attack, else the name of
            the attack that broke it.
        adv_pred: the predicted class of the adversarial image; -1 where the sample stands.
        distance: of the adversarial image, in the threat's norm; NaN where the sample stands.
        attacks: one result per attack, in the order run.
        seconds: wall time, that of interrupted runs included; of processes that shared the work, that of the one
            that worked longest. The seconds of a stage likewise.
        num_classes: length of the logits.
        partial: stopped by the time limit; what stands may yet fall, so robust accuracy is an upper bound.
        batch_size: images at a time, as given, or as found fastest and halved where memory ran out.
        adversarial: the adversarial images, (N, C, H, W), the originals where ``has_adversarial`` is false; None unless
            kept.
        has_adversarial: (N,) bool, which samples' adversarial images are there.
        certified_by: what proved that no image in the ball is classified wrongly, up to floating point; None for
            samples of which that is not proved, and in place of the array where nobody asked.
    """

    index: np.ndarray
    label: np.ndarray
    clean_pred: np.ndarray
    broken_by: np.ndarray
    adv_pred: np.ndarray
    distance: np.ndarray
    num_classes: int
    attacks: list[AttackResult] = field(default_factory=list)
    seconds: float = 0.0
    partial: bool = False
    batch_size: int = 0
    adversarial: Tensor | None = None
    has_adversarial: np.ndarray | None = None
    certified_by: np.ndarray | None = None
    record: Record | None = None
    """The record that was made of it, if one was."""
    name: str = ""
    """The model's name on the board, else that of its class."""
    threat: ThreatModel | None = None
    """The threat model."""

    def __repr__(self) -> str:
        return brief(
            "Evaluation",
            about=[*filter(None, [self.name]), *([] if self.threat is None else [str(self.threat)])],
            n=self.n,
            clean_acc=self.clean_acc,
            robust_acc=self.robust_acc,
            attacks=[attack.label for attack in self.attacks],
            partial=self.partial,
            proved=self.proved,
        )

    @classmethod
    def begin(cls, index: np.ndarray, label: np.ndarray, clean_pred: np.ndarray, *, num_classes: int) -> Evaluation:
        """Return the outcome of the clean predictions (N,) alone: a sample predicted wrongly has fallen."""
        wrong = clean_pred != label
        return cls(
            index=index,
            label=label,
            clean_pred=clean_pred,
            broken_by=np.array(["clean" if is_wrong else None for is_wrong in wrong], dtype=object),
            adv_pred=np.where(wrong, clean_pred, -1),
            distance=np.where(wrong, 0.0, np.nan),
            num_classes=num_classes,
        )

    @classmethod
    def of_record(cls, record: Record, verdicts: pd.DataFrame, *, num_classes: int) -> Evaluation:
        """Return the outcome that a record and its verdicts hold; adversarial images are not among them."""
        import pandas as pd

        found = cls.begin(
            verdicts["index"].to_numpy(),
            verdicts["label"].to_numpy(),
            verdicts["clean_pred"].to_numpy(),
            num_classes=num_classes,
        )
        names = verdicts["broken_by"].astype(object).to_numpy()
        found.broken_by = np.array([None if pd.isna(name) else name for name in names], dtype=object)
        found.adv_pred = verdicts["adv_pred"].fillna(-1).to_numpy(dtype=np.int64)
        found.distance = verdicts["distance"].to_numpy(dtype=np.float64)
        if CERTIFIED in verdicts:
            proved = verdicts[CERTIFIED].astype(object).to_numpy()
            found.certified_by = np.array([None if pd.isna(name) else name for name in proved], dtype=object)
        found.attacks, found.seconds = list(record.attacks), record.seconds
        found.partial, found.batch_size, found.record = record.partial, record.batch_size, record
        found.name, found.threat = record.model.name, ThreatModel(record.threat.norm, record.threat.eps)
        return found

    def certify(self, position: int, method: str) -> None:
        """Note that ``method`` proved the sample at ``position``."""
        if self.certified_by is None:
            self.certified_by = np.full(self.n, None, dtype=object)
        self.certified_by[position] = method

    def is_certified(self, position: int) -> bool:
        """Return whether the sample at ``position`` is proved."""
        return self.certified_by is not None and self.certified_by[position] is not None

    @property
    def proved(self) -> int | None:
        """How many samples are certified; None where nobody asked."""
        return None if self.certified_by is None else sum(method is not None for method in self.certified_by)

    @property
    def n(self) -> int:
        """The number of samples."""
        return len(self.index)

    def keep_images(self, images: Tensor) -> None:
        """Make room for the adversarial images of ``images`` (N, C, H, W)."""
        self.adversarial = to_unit(images).cpu().clone()
        self.has_adversarial = np.zeros(self.n, dtype=bool)

    def put_images(self, positions: np.ndarray, images: Tensor) -> None:
        """Take in adversarial images (B, C, H, W) of the samples at ``positions`` (B,), if there is room for them."""
        if self.adversarial is not None and self.has_adversarial is not None:
            self.adversarial[torch.from_numpy(positions)] = images.cpu()
            self.has_adversarial[positions] = True

    def add_attack(self, attack: AttackSpec, stages: Sequence[StageResult]) -> None:
        """Note that an attack is over."""
        self.attacks.append(
            AttackResult(
                label=attack.label,
                spec=attack.canonical,
                robust_acc=self.robust_acc,
                stages=tuple(stages),
                standing=pack_standing(self.standing),
            )
        )

    @property
    def standing(self) -> np.ndarray:
        """(N,) bool: right without an attack and not broken."""
        return np.array([name is None for name in self.broken_by])

    @property
    def clean_acc(self) -> float:
        """Clean accuracy in percent."""
        return 100 * float(np.mean(self.clean_pred == self.label))

    @property
    def robust_acc(self) -> float:
        """Accuracy after all attacks, pointwise, in percent."""
        return 100 * float(np.mean(self.standing))

    def verdicts(self) -> pd.DataFrame:
        """Return one row a sample: :data:`VERDICT_COLUMNS`, and ``certified_by`` where somebody asked."""
        import pandas as pd

        found = ~self.standing
        proved = None if self.certified_by is None else {CERTIFIED: pd.array(self.certified_by, dtype="string")}
        return pd.DataFrame(
            {
                "index": self.index,
                "label": self.label,
                "clean_pred": self.clean_pred,
                "broken_by": pd.array(self.broken_by, dtype="string"),
                "adv_pred": pd.Series(self.adv_pred, dtype="Int64").where(found),
                "distance": np.where(found, self.distance, np.nan),
                **(proved or {}),
            },
            columns=[*VERDICT_COLUMNS, *(proved or ())],
        )
