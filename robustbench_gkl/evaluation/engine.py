"""The evaluation engine: it runs attacks and believes none of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import Attack, attack_mode, parse_attack
from robustbench_gkl.data import to_unit
from robustbench_gkl.device import full_precision
from robustbench_gkl.errors import UserError
from robustbench_gkl.noise import Noise
from robustbench_gkl.results.record import AttackResult, StageResult
from robustbench_gkl.results.store import VERDICT_COLUMNS, Journal
from robustbench_gkl.threat import ThreatModel


@dataclass(frozen=True)
class Progress:
    """Where an evaluation stands.

    Attributes:
        stage: the attack that runs, or ``clean``.
        done, total: samples that the stage is through with, and all that it has.
        standing: samples not broken so far.
        n: all samples.
    """

    stage: str
    done: int
    total: int
    standing: int
    n: int


class Meter:
    """The model as attacks see it: float32 logits out, images counted on the way in and back."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.forwards = 0
        self.backwards = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) in float32."""
        self.forwards += images.shape[0]
        logits: Tensor = self._model(images)
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits.float()

    def _count(self, gradient: Tensor) -> None:
        self.backwards += gradient.shape[0]


@dataclass
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
        seconds: wall time, that of interrupted runs included.
        num_classes: length of the logits.
        adversarial: the adversarial images, (N, C, H, W), the originals where none was found; None unless kept.
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
    adversarial: Tensor | None = None

    @property
    def n(self) -> int:
        """The number of samples."""
        return len(self.index)

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
        """Return one row a sample: ``index label clean_pred broken_by adv_pred distance``."""
        found = ~self.standing
        return pd.DataFrame(
            {
                "index": self.index,
                "label": self.label,
                "clean_pred": self.clean_pred,
                "broken_by": pd.array(self.broken_by, dtype="string"),
                "adv_pred": pd.Series(self.adv_pred, dtype="Int64").where(found),
                "distance": np.where(found, self.distance, np.nan),
            },
            columns=list(VERDICT_COLUMNS),
        )


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    attacks: str | Sequence[str | Attack],
    *,
    index: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 250,
    device: torch.device | str | None = None,
    reference: bool = False,
    journal: Journal | None = None,
    keep_adversarial: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Measure clean and robust accuracy of any model.

    The model is put in eval mode for the time of the call. Each attack runs on the samples that stand after those
    before it. A candidate counts only if it is finite, in [0, 1], inside the ball, and misclassified when
    predicted again in float32.

    Args:
        model: images (B, C, H, W) float32 in [0, 1] to logits (B, K).
        images: (N, C, H, W), uint8, or float in [0, 1].
        labels: (N,) integers in {0, ..., K - 1}.
        threat: the threat model.
        attacks: one spec such as ``"autoattack"`` or ``"pgd:steps=20"``, or several, or attacks.
        index: (N,) the samples' indices in their data set, to which the random numbers belong; None for 0..N - 1.
        seed: of the attacks' random numbers.
        batch_size: images at a time.
        device: where to run; None for where the model's parameters are.
        reference: run the published implementations instead of our own.
        journal: where verdicts are kept as they fall; what it holds already is not done again.
        keep_adversarial: return the adversarial images too.
        on_progress: called after each batch.

    Returns:
        The verdict on each sample and the result of each attack.

    Raises:
        UserError: an unknown attack; images, labels or logits of the wrong shape or range; NaN logits.
    """
    specs = [attacks] if isinstance(attacks, str) else list(attacks)
    parsed = [parse_attack(spec) if isinstance(spec, str) else spec for spec in specs]
    refuse_duplicates(parsed)
    chosen = [attack.reference(threat) if reference else attack for attack in parsed]
    where = torch.device(device) if device is not None else _device_of(model)
    _check_samples(images, labels)
    positions = torch.arange(len(labels)) if index is None else index.cpu()
    engine = _Engine(model.to(where), images, labels, positions, threat, where, seed, batch_size)
    engine.journal, engine.on_progress = journal, on_progress
    if keep_adversarial:
        engine.adversarial = to_unit(images).cpu().clone()
    with attack_mode(model), full_precision():
        return engine.run(parsed, chosen)


def refuse_duplicates(attacks: Sequence[Attack]) -> None:
    """Raise UserError where two attacks would have the same name in the results."""
    labels = [attack.label for attack in attacks]
    if not labels:
        raise UserError("give at least one attack, such as pgd:steps=20 or autoattack")
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"the attack {label} is given twice; give each once")


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _check_samples(images: Tensor, labels: Tensor) -> None:
    if images.dim() != 4 or len(images) == 0:
        raise UserError(f"images must have shape (N, C, H, W) with N at least 1, got {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise UserError(f"labels must be {len(images)} integers, got {labels.dtype} {tuple(labels.shape)}")
    if images.dtype != torch.uint8:
        if not bool(images.isfinite().all()):
            raise UserError("images hold NaN or infinite values; every pixel must lie in [0, 1]")
        low, high = float(images.min()), float(images.max())
        if low < 0 or high > 1:
            raise UserError(
                f"images must lie in [0, 1], got values from {low:g} to {high:g}; "
                "divide by 255 and leave normalisation to the model"
            )


class _Engine:
    """One evaluation under way."""

    journal: Journal | None = None
    on_progress: Callable[[Progress], None] | None = None
    adversarial: Tensor | None = None

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        threat: ThreatModel,
        device: torch.device,
        seed: int,
        batch_size: int,
    ) -> None:
        self.meter = Meter(model)
        self.images, self.labels, self.index = images, labels.cpu().long(), index
        self.threat, self.device, self.seed, self.batch_size = threat, device, seed, batch_size

    def run(self, attacks: Sequence[Attack], chosen: Sequence[Attack]) -> Evaluation:
        started = time.perf_counter()
        result = self._clean()
        for attack, variant in zip(attacks, chosen, strict=True):
            stages = variant.stages(self.threat, num_classes=result.num_classes)
            done = tuple(self._stage(stage, result) for stage in stages)
            result.attacks.append(AttackResult(label=attack.label, robust_acc=result.robust_acc, stages=done))
        replayed = sum(stage.seconds for attack in result.attacks for stage in attack.stages)
        result.seconds = max(time.perf_counter() - started, replayed)
        result.adversarial = self.adversarial
        return result

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        images = to_unit(self.images[rows.to(self.images.device)].to(self.device, non_blocking=True))
        return images, self.labels[rows].to(self.device, non_blocking=True)

    @torch.no_grad()
    def _clean(self) -> Evaluation:
        predictions = []
        n = len(self.labels)
        for rows in torch.arange(n).split(self.batch_size):  # type: ignore[no-untyped-call]
            images, _ = self._batch(rows)
            predictions.append(self._predict(images))
        prediction = torch.cat(predictions)
        wrong = (prediction != self.labels).numpy()
        self._tell("clean", n, n, n - int(wrong.sum()))
        return Evaluation(
            index=self.index.numpy(),
            label=self.labels.numpy(),
            clean_pred=prediction.numpy(),
            broken_by=np.array(["clean" if is_wrong else None for is_wrong in wrong], dtype=object),
            adv_pred=np.where(wrong, prediction.numpy(), -1),
            distance=np.where(wrong, 0.0, np.nan),
            num_classes=self.num_classes,
        )

    def _predict(self, images: Tensor) -> Tensor:
        """Return the predicted classes (B,) on the CPU, after checking that the logits are usable."""
        logits = self.meter(images)
        if logits.dim() != 2 or logits.shape[0] != images.shape[0]:
            raise UserError(f"the model must give logits (B, K), got {tuple(logits.shape)} for {len(images)} images")
        self.num_classes = logits.shape[1]
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= self.num_classes:
            raise UserError(
                f"labels must lie in 0..{self.num_classes - 1}, as the model has {self.num_classes} classes; "
                f"got {int(self.labels.min())}..{int(self.labels.max())}"
            )
        usable = logits.isfinite().all(1)
        if not bool(usable.all()):
            raise UserError(
                f"the model gives NaN or infinite logits for {int((~usable).sum())} of {len(usable)} images; "
                "robustness cannot be judged: look at its weights and its normalisation"
            )
        return logits.argmax(1).cpu()

    def _stage(self, stage: Attack, result: Evaluation) -> StageResult:
        """Run one attack on what stands, batch by batch; what the journal holds is taken from there."""
        standing = torch.from_numpy(np.flatnonzero(result.standing))
        before = int(standing.numel())
        totals: dict[str, float] = {"rejected": 0, "seconds": 0.0, "forwards": 0, "backwards": 0}
        replay = self._replay(stage.label)
        done = 0
        for rows in standing.split(self.batch_size) if before else ():  # type: ignore[no-untyped-call]
            entry = next(replay, None) or self._attack(stage, rows)
            self._apply(entry, stage.label, result)
            for key in totals:
                totals[key] += entry[key]
            done += len(rows)
            self._tell(stage.label, done, before, int(result.standing.sum()))
        return StageResult(
            name=stage.label,
            attacked=before,
            broken=before - int(result.standing.sum()),
            rejected=int(totals["rejected"]),
            seconds=round(totals["seconds"], 3),
            forwards=int(totals["forwards"]),
            backwards=int(totals["backwards"]),
        )

    def _replay(self, stage: str) -> Iterator[dict[str, Any]]:
        entries = self.journal.entries if self.journal is not None else []
        return iter([entry for entry in entries if entry["stage"] == stage])

    def _attack(self, stage: Attack, rows: Tensor) -> dict[str, Any]:
        """Attack the samples in ``rows`` and return the journal entry that says what came of it."""
        started = time.perf_counter()
        forwards, backwards = self.meter.forwards, self.meter.backwards
        images, labels = self._batch(rows)
        noise = Noise(self.seed, self.index[rows].to(self.device))
        candidates = stage(self.meter, images, labels, self.threat, noise=noise).detach().float()
        if candidates.shape != images.shape:
            raise RuntimeError(f"{stage.label} returned {tuple(candidates.shape)} for images {tuple(images.shape)}")
        allowed = self.threat.contains(candidates, images)
        candidates = torch.where(allowed[:, None, None, None], candidates, images)
        with torch.no_grad():
            prediction = self.meter(candidates).argmax(1)
        broken = (prediction != labels) & allowed
        distance = self.threat.distance(candidates, images)[broken]
        fallen = rows[broken.cpu()]
        if self.adversarial is not None:
            self.adversarial[fallen] = candidates[broken].cpu()
        entry = {
            "stage": stage.label,
            "fallen": fallen.tolist(),
            "adv_pred": prediction[broken].tolist(),
            "distance": distance.tolist(),
            "rejected": int((~allowed).sum()),
            "seconds": time.perf_counter() - started,
            "forwards": self.meter.forwards - forwards,
            "backwards": self.meter.backwards - backwards,
        }
        if self.journal is not None:
            self.journal.append(entry)
        return entry

    @staticmethod
    def _apply(entry: dict[str, Any], stage: str, result: Evaluation) -> None:
        fallen = entry["fallen"]
        result.broken_by[fallen] = stage
        result.adv_pred[fallen] = entry["adv_pred"]
        result.distance[fallen] = entry["distance"]

    def _tell(self, stage: str, done: int, total: int, standing: int) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(stage, done, total, standing, len(self.labels)))
