"""A search over a batch in memory, as a plain function."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.objectives import runners_up
from robustbench_gkl.attacks.search.compiled import with_kernels
from robustbench_gkl.attacks.search.driver import Driver
from robustbench_gkl.attacks.search.slots import Space, column
from robustbench_gkl.attacks.search.tasks import Load, Task, Waiting
from robustbench_gkl.attacks.search.threads import driver_count, run_together
from robustbench_gkl.attacks.specs.base import SearchSpec
from robustbench_gkl.core.device import sent
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel


def propose(
    spec: SearchSpec, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise
) -> Tensor:
    """Return the first success of each sample, or the last point of its last run, (B, C, H, W).

    Args:
        spec: the attack.
        model: images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1], the originals.
        labels: (B,) int64.
        threat: the threat model.
        noise: the samples' random numbers.
    """
    with torch.no_grad():
        logits = model(images).float()
    shape = (images.shape[1], images.shape[2], images.shape[3])
    count = driver_count(images.device, len(labels))
    space = with_kernels(Space(len(labels), shape, logits.shape[1], threat, images.device), spec)
    space = replace(space, slots=-(-len(labels) // count))
    samples = _InMemory(model, images, labels, threat, noise, logits)
    runs = spec.runs(threat, num_classes=logits.shape[1])
    drivers = [
        Driver(spec.search(space), model, samples, samples, name=spec.name, targeted=spec.targeted)
        for _ in range(count)
    ]
    tasks = Waiting((Task(0, position) for position in range(len(labels))), runs=runs, drivers=count)
    run_together(drivers, tasks, stop=samples.stopped.set)
    return samples.candidates


class _InMemory:
    """A batch of samples and the candidates found for them; threads may call it at once, each for its own samples."""

    def __init__(
        self, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, noise: Noise, logits: Tensor
    ) -> None:
        self.model, self.images, self.labels, self.threat, self.noise = model, images, labels.cpu(), threat, noise
        self.ranked = runners_up(logits.cpu(), self.labels)
        self.candidates = images.clone()
        self.stopped = threading.Event()

    def _rows(self, positions: Sequence[int]) -> Tensor:
        return sent(torch.tensor(positions), self.images.device)

    def load(self, positions: Sequence[int]) -> Load:
        rows, device = torch.tensor(positions), self.noise.index.device
        return Load(self.images[self._rows(positions)], self.labels[rows], self.noise.take(sent(rows, device)))

    def ranking(self, positions: Sequence[int]) -> Tensor:
        return self.ranked[torch.tensor(positions)]

    def confirm(self, tasks: Sequence[Task], points: Tensor) -> np.ndarray:
        rows = self._rows([task.position for task in tasks])
        inside = self.threat.contains(points, self.images[rows])
        self.candidates[rows] = torch.where(column(inside), points, self.candidates[rows])
        found: np.ndarray = inside.cpu().numpy()
        return found

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        if left is not None:
            self.candidates[self._rows([task.position for task in done])] = left

    def should_stop(self) -> bool:
        return self.stopped.is_set()
