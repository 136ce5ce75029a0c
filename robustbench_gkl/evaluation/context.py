"""What the stages of an evaluation share: samples, model, threat, and where results go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.objectives import runners_up
from robustbench_gkl.attacks.search.driver import Load, Precision
from robustbench_gkl.certification.certifier import Certifier
from robustbench_gkl.core.device import sent
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import to_unit
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.meter import Meter
from robustbench_gkl.evaluation.progress import Progress, ignore
from robustbench_gkl.evaluation.replay import Entry
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.results.journal import Journal


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Images with labels, and the random numbers that belong to each.

    Attributes:
        images: (N, C, H, W), uint8, or float32 in [0, 1], on any device.
        labels: (N,) int64 on the CPU.
        index: (N,) on the CPU: the samples' indices in their data set.
        seed: of their random numbers.
        device: where :meth:`load` puts them.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    seed: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def load(self, positions: Sequence[int]) -> Load:
        """Return the samples at ``positions``, their labels on the CPU and all else on the device."""
        rows = torch.as_tensor(positions)
        images = self.images[sent(rows, self.images.device)]
        images = to_unit(images.to(self.device) if images.is_cuda else sent(images, self.device))
        return Load(images, self.labels[rows], Noise(self.seed, sent(self.index[rows], self.device)))


@dataclass(frozen=True, eq=False)
class Context:
    """An evaluation under way, as each of its stages sees it.

    Attributes:
        samples: what is evaluated.
        clean_logits: (N, K) on the CPU, of the unattacked images.
        meter: the model, with its calls counted.
        threat: norm and radius.
        batch_size: images at a time, to begin with.
        shrinks: whether it may be halved where memory runs out.
        share: the ranks that share the samples, and which samples.
        entries: what the journal held at the beginning.
        precision: in which our own attacks search.
        journal: where verdicts are kept as they fall; None for nowhere.
        keeps_images: whether the journal keeps adversarial images too.
        deadline: on the clock of ``time.perf_counter``; None for no limit.
        on_progress: called a few times a second, on rank 0 alone.
        certifier: proves samples; None where nobody asks for it.
        on_note: called with a line, on rank 0 alone.
    """

    samples: SampleSet
    clean_logits: Tensor
    meter: Meter
    threat: ThreatModel
    batch_size: int
    share: Share
    entries: Sequence[Entry]
    shrinks: bool = False
    precision: Precision = "float32"
    journal: Journal | None = None
    keeps_images: bool = False
    deadline: float | None = None
    on_progress: Callable[[Progress], None] | None = None
    certifier: Certifier | None = None
    on_note: Callable[[str], None] = ignore

    @cached_property
    def mine(self) -> np.ndarray:
        """(N,) bool: the samples that are evaluated here."""
        return self.share.samples(len(self.samples))

    @property
    def part(self) -> str:
        """The name of this process's part of the journal."""
        return self.journal.part if self.journal is not None else str(self.share.exchange.world.rank)

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.perf_counter() > self.deadline

    def load(self, positions: Sequence[int]) -> Load:
        """Return the samples at ``positions``, see :meth:`SampleSet.load`."""
        return self.samples.load(positions)

    def ranking(self, positions: Sequence[int]) -> Tensor:
        """Return (B, K - 1): the classes but the label, by falling logit of the unattacked image."""
        rows = torch.as_tensor(positions)
        return runners_up(self.clean_logits[rows], self.samples.labels[rows])

    def keep(self, result: Evaluation, positions: np.ndarray, images: Tensor) -> None:
        """Keep adversarial images (B, C, H, W) of the samples at ``positions`` (B,), if any are to be kept."""
        result.put_images(positions, images)
        if self.keeps_images and self.journal is not None:
            self.journal.append_images(positions.tolist(), images.cpu().numpy())
