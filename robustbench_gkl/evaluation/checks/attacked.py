"""An evaluation that is over, as the checks after the attacks see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks import AttackSpec, parse_attack
from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.objectives import margin
from robustbench_gkl.core.noise import Noise, permutation
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import to_unit
from robustbench_gkl.evaluation.checks.finding import sample_rows
from robustbench_gkl.evaluation.evaluation import Evaluation

MOST_FALLEN = 500
"""Adversarial images predicted again."""
MOST_ATTACKED = 48
"""Samples that PGD is run on again, with few and many steps and in a large ball."""


@dataclass
class Attacked:
    """An evaluation that is over, and the model and samples that it was about.

    Attributes:
        model: images to logits, in eval mode.
        images: (N, C, H, W), uint8, or float32 in [0, 1].
        labels: (N,) int64 on the CPU.
        threat: the threat model.
        result: what the attacks found.
        seed: of the random numbers.
        batch_size: images at a time.
        device: where the model is.
        randomised: the model answers at random, as the attacks took into account.
    """

    model: Model
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    result: Evaluation
    seed: int
    batch_size: int
    device: torch.device
    randomised: bool

    def originals(self, rows: Tensor) -> Tensor:
        """Return the images (n, C, H, W) at ``rows``, in [0, 1] on the device."""
        return to_unit(self.images[rows.to(self.images.device)].to(self.device))

    @torch.no_grad()
    def margins(self, images: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        """Return the margins (n,) of ``images`` on the CPU, above zero where they fool, and the logits' scale."""
        parts = images.split(self.batch_size)  # type: ignore[no-untyped-call]
        logits = torch.cat([self.model(part.to(self.device)).float().cpu() for part in parts])
        return margin(logits, self.labels[rows]), float(logits.std()) if logits.numel() > 1 else 1.0

    def noise(self, rows: Tensor) -> Noise:
        """Return the random numbers of the samples at ``rows``, other than those of the attacks."""
        index = torch.from_numpy(self.result.index)[rows].to(self.device)
        return Noise(self.seed, index).at("verify")

    def proposals(self, attack: AttackSpec, rows: Tensor, threat: ThreatModel, *path: str) -> Tensor:
        """Return what ``attack`` proposes under ``threat``, (n, C, H, W), with the random numbers of ``path``."""
        found = []
        for part in rows.split(self.batch_size):  # type: ignore[no-untyped-call]
            images, labels = self.originals(part), self.labels[part].to(self.device)
            noise = self.noise(part).at(*path)
            found.append(attack(self.model, images, labels, threat, noise=noise).detach())
        return torch.cat(found)

    def survivors(self, rows: Tensor, threat: ThreatModel, *, steps: int) -> np.ndarray:
        """Return (n,) bool: which of the samples at ``rows`` PGD does not break under ``threat``."""
        found = self.proposals(parse_attack(f"pgd:steps={steps}"), rows, threat)
        return (self.margins(found, rows)[0] <= 0).numpy()

    @cached_property
    def fallen(self) -> Tensor:
        """Rows of at most 500 samples that an attack broke and whose adversarial image was kept, in random order."""
        broken = np.flatnonzero(~self.result.standing & (self.result.clean_pred == self.result.label))
        if self.result.adversarial is None or not len(broken):
            return torch.empty(0, dtype=torch.long)
        rows = sample_rows(torch.from_numpy(broken), MOST_FALLEN, "verify", "fallen")
        assert self.result.has_adversarial is not None
        rows = rows[torch.from_numpy(self.result.has_adversarial)[rows]]
        # Not the order of the attack: another batch around each sample.
        return rows[permutation(self.seed, "verify", "order", n=len(rows))]

    @cached_property
    def attacked(self) -> Tensor:
        """Rows of at most 48 samples, and at most a tenth of all or 8, that are right without an attack."""
        right = torch.from_numpy(np.flatnonzero(self.result.clean_pred == self.result.label))
        return sample_rows(right, min(MOST_ATTACKED, max(8, self.result.n // 10)), "verify", "attacked")
