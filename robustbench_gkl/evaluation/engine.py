"""The evaluation engine: it runs attacks and believes none of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import AttackSpec, attacks_to_run
from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.attacks.objectives import runners_up
from robustbench_gkl.attacks.search.driver import Load, Precision
from robustbench_gkl.config.schema import EvalConfig
from robustbench_gkl.core.device import full_precision
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import to_unit
from robustbench_gkl.evaluation.batch_size import BatchSize, probe_batch_size
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.meter import Meter
from robustbench_gkl.evaluation.progress import Progress
from robustbench_gkl.evaluation.replay import clean_predictions, kept_images, spent_before, stage_logs
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.evaluation.stage import Stage
from robustbench_gkl.results.journal import Journal


@dataclass(frozen=True)
class EngineSettings:
    """How an evaluation searches, whatever it is about.

    Attributes:
        seed: of the attacks' random numbers.
        batch_size: images at a time on each rank (a tenth more where all then fit into one batch); ``"auto"`` for the
            one that a short probe finds fastest.
        reference: run the published implementations instead of our own.
        search_precision: ``"bf16"`` or ``"tf32"`` lets our own attacks search in that precision; what they find is
            confirmed in float32, and where it is not, the sample is searched again in float32.
        compiled: search with ``torch.compile(model)``.
    """

    seed: int = 0
    batch_size: BatchSize = 250
    reference: bool = False
    search_precision: Precision = "float32"
    compiled: bool = False

    @classmethod
    def of(cls, config: EvalConfig) -> EngineSettings:
        """Return what a configuration says of it."""
        return cls(
            seed=config.seed,
            batch_size=config.batch_size,
            reference=config.engine == "reference",
            search_precision=config.search_precision,
            compiled=config.compiled,
        )


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    attacks: str | Sequence[str | AttackSpec],
    *,
    index: Tensor | None = None,
    seed: int = 0,
    batch_size: BatchSize = 250,
    device: torch.device | str | None = None,
    reference: bool = False,
    search_precision: Precision = "float32",
    compiled: bool = False,
    time_limit: float | None = None,
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
        attacks: one spec such as ``"autoattack"`` or ``"pgd:steps=20"``, or several, or attacks; none for the clean
            accuracy alone.
        index: (N,) the samples' indices in their data set, to which the random numbers belong; None for 0..N - 1.
        seed, batch_size, reference, search_precision, compiled: see :class:`EngineSettings`.
        device: where to run; None for where the model's parameters are.
        time_limit: seconds after which to stop, with the outcome marked partial; None for no limit.
        keep_adversarial: return the adversarial images too.
        on_progress: called a few times a second.

    Returns:
        The verdict on each sample and the result of each attack.

    Raises:
        UserError: an unknown attack, or one for another norm; images, labels or logits of the wrong shape or range; NaN
            logits.
    """
    settings = EngineSettings(seed, batch_size, reference, search_precision, compiled)
    return measure(
        model,
        images,
        labels,
        threat,
        attacks,
        settings,
        index=index,
        device=device,
        time_limit=time_limit,
        keep_adversarial=keep_adversarial,
        on_progress=on_progress,
    )


def measure(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    attacks: str | Sequence[str | AttackSpec],
    settings: EngineSettings = EngineSettings(),
    *,
    index: Tensor | None = None,
    device: torch.device | str | None = None,
    time_limit: float | None = None,
    journal: Journal | None = None,
    share: Share | None = None,
    keep_adversarial: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Do what :func:`evaluate` does, with a journal and with other ranks.

    Args:
        model, images, labels, threat, attacks, index, device, time_limit, on_progress: as there.
        settings: how to search.
        journal: where verdicts are kept as they fall; what it holds already is not done again. With several ranks each
            has its own part, and what counts is the journal of rank 0.
        share: the ranks that share the samples, and which samples; None for all samples here.
        keep_adversarial: return the adversarial images too, those that the journal holds included.

    Returns:
        As there, the same on all ranks but for adversarial images, which rank 0 has. What is said of samples outside
        the shard means nothing.
    """
    started = time.perf_counter()
    share = share or Share()
    specs = [attacks] if isinstance(attacks, str) else list(attacks)
    chosen = attacks_to_run(specs, threat, reference=settings.reference)
    where = torch.device(device) if device is not None else _device_of(model)
    _check_samples(images, labels)
    positions = torch.arange(len(labels)) if index is None else index.cpu()
    meter = Meter(model.to(where))
    with attack_mode(model), full_precision():
        shape = (images.shape[1], images.shape[2], images.shape[3])

        def probe() -> int:
            return probe_batch_size(model, shape, device=where, limit=len(labels), journal=journal)

        auto = settings.batch_size == "auto"
        size = share.exchange.from_leader(probe) if auto else int(settings.batch_size)
        run = Run(meter, images, labels, positions, threat, where, settings.seed, size, share)
        run.precision, run.journal = settings.search_precision, journal
        run.on_progress = on_progress if share.exchange.world.leads else None
        run.deadline = None if time_limit is None else started + time_limit
        if settings.compiled:
            meter.searched = torch.compile(model, dynamic=True)
        run.keeps = keep_adversarial
        return run.run(chosen)


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


@dataclass
class Run:
    """One evaluation under way: the samples, and what every stage needs of it."""

    meter: Meter
    images: Tensor
    labels: Tensor
    index: Tensor
    threat: ThreatModel
    device: torch.device
    seed: int
    batch_size: int
    share: Share
    precision: Precision = "float32"
    journal: Journal | None = None
    on_progress: Callable[[Progress], None] | None = None
    deadline: float | None = None
    keeps: bool = False
    """Whether adversarial images are kept."""
    entries: list[dict[str, Any]] = field(init=False)
    """What the journal held at the beginning."""
    mine: np.ndarray = field(init=False)
    """(N,) bool: the samples that are looked at."""
    clean_logits: Tensor = field(init=False)
    """(N, K) on the CPU."""

    def __post_init__(self) -> None:
        self.labels = self.labels.cpu().long()
        self.mine = self.share.samples(len(self.labels))

    @property
    def part(self) -> str:
        """The name of this process's part of the journal."""
        return self.journal.part if self.journal is not None else str(self.share.exchange.world.rank)

    def run(self, attacks: Sequence[tuple[AttackSpec, AttackSpec]]) -> Evaluation:
        """Run all attacks, given with what runs of each."""
        started = time.perf_counter()
        self.entries = self.share.exchange.from_leader(lambda: self.journal.entries if self.journal is not None else [])
        result = self._clean()
        result.batch_size = self.batch_size
        if self.keeps and self.share.exchange.world.leads and self.share.shard is None:
            result.keep_images(self.images)
        for attack, variant in attacks:
            logs = stage_logs(attack, variant, self.threat, num_classes=result.num_classes)
            done = []
            for log in logs:
                if not result.partial:
                    done.append(Stage(self, log, result=result).run())
            if done or not logs:
                result.add_attack(attack, done)
        result.seconds = spent_before(self.entries) + time.perf_counter() - started
        if self.journal is not None:
            kept_images(self.journal, tuple(self.images.shape[1:]), result)
        return result

    def keep(self, result: Evaluation, positions: np.ndarray, images: Tensor) -> None:
        """Keep adversarial images (B, C, H, W) of the samples at ``positions`` (B,), if any are to be kept."""
        result.put_images(positions, images)
        if self.keeps and self.journal is not None:
            self.journal.append_images(positions.tolist(), images.cpu().numpy())

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.perf_counter() > self.deadline

    def load(self, positions: Sequence[int]) -> Load:
        """Return the samples at ``positions`` on the device."""
        rows = torch.as_tensor(positions)
        images = to_unit(self.images[rows.to(self.images.device)].to(self.device, non_blocking=True))
        labels = self.labels[rows].to(self.device, non_blocking=True)
        return Load(images, labels, Noise(self.seed, self.index[rows].to(self.device)))

    def ranking(self, positions: Sequence[int]) -> Tensor:
        """Return (B, K - 1): the classes but the label, by falling logit of the unattacked image."""
        rows = torch.as_tensor(positions)
        return runners_up(self.clean_logits[rows], self.labels[rows])

    @torch.no_grad()
    def _clean(self) -> Evaluation:
        n = len(self.labels)
        chunks = torch.arange(n).split(self.batch_size)  # type: ignore[no-untyped-call]
        self.clean_logits = torch.cat([self._logits(self.load(rows.tolist()).images) for rows in chunks])
        prediction = self._agreed(self.clean_logits.argmax(1))
        wrong = (prediction != self.labels).numpy()
        if self.on_progress is not None:
            total = int(self.mine.sum())
            self.on_progress(Progress("clean", total, total, int((self.mine & ~wrong).sum()), total))
        return Evaluation.begin(
            self.index.numpy(), self.labels.numpy(), prediction.numpy(), num_classes=self.clean_logits.shape[1]
        )

    def _agreed(self, prediction: Tensor) -> Tensor:
        """Return the clean predictions (N,) that count: those noted first; another machine may round another way."""
        exchange = self.share.exchange
        noted = clean_predictions(self.entries)
        new = [position for position in self.mine.nonzero()[0].tolist() if position not in noted]
        pairs = exchange.from_leader(lambda: list(zip(new, prediction[new].tolist(), strict=True)))
        if pairs and self.journal is not None and exchange.world.leads:
            self.journal.append({"clean": pairs})
        noted |= dict(pairs)
        prediction[list(noted)] = torch.tensor(list(noted.values()), dtype=prediction.dtype)
        return prediction

    def _logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) on the CPU, after checking that they are usable."""
        logits = self.meter(images)
        if logits.dim() != 2 or logits.shape[0] != images.shape[0]:
            raise UserError(f"the model must give logits (B, K), got {tuple(logits.shape)} for {len(images)} images")
        classes = logits.shape[1]
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= classes:
            raise UserError(
                f"labels must lie in 0..{classes - 1}, as the model has {classes} classes; "
                f"got {int(self.labels.min())}..{int(self.labels.max())}"
            )
        usable = logits.isfinite().all(1)
        if not bool(usable.all()):
            raise UserError(
                f"the model gives NaN or infinite logits for {int((~usable).sum())} of {len(usable)} images; "
                "robustness cannot be judged: look at its weights and its normalisation"
            )
        return logits.cpu()
