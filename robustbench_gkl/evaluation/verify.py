"""Checks after the attacks: whether what fell has fallen, and whether what stands would fall to a sound attack."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.attacks.model import Model, attack_mode
from robustbench_gkl.attacks.objectives import margin
from robustbench_gkl.data import to_unit
from robustbench_gkl.device import full_precision
from robustbench_gkl.evaluation.outcome import Evaluation
from robustbench_gkl.evaluation.passport import ROUNDING, Finding, count, judge, sample_rows, surely_above
from robustbench_gkl.noise import Noise, permutation
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import Check
from robustbench_gkl.threat import ThreatModel

MOST_FALLEN = 500
"""Adversarial images predicted again."""
MOST_STANDING = 250
"""Samples that random noise is tried on."""
DRAWS = 4
"""Of noise, for each."""
MOST_ATTACKED = 48
"""Samples that PGD is run on again, with few and many steps and in a large ball."""
STEPS = 10
"""Of the shorter PGD; the longer one has four times as many."""
RARE = 0.01
"""Share of exceptions above which, beyond chance, a check fails instead of warning."""


@dataclass
class Aftermath:
    """An evaluation that is over, and the model and samples that it was about.

    Attributes:
        model: in eval mode.
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

    def survivors(self, rows: Tensor, threat: ThreatModel, *, steps: int) -> np.ndarray:
        """Return (n,) bool: which of the samples at ``rows`` PGD does not break under ``threat``."""
        attack = parse_attack(f"pgd:steps={steps}")
        stand = []
        for part in rows.split(self.batch_size):  # type: ignore[no-untyped-call]
            images, labels = self.originals(part), self.labels[part].to(self.device)
            found = attack(self.model, images, labels, threat, noise=self.noise(part)).detach()
            stand.append(self.margins(found, part)[0] <= 0)
        return torch.cat(stand).numpy()

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


def _still_fool(after: Aftermath, adversarial: Tensor, what: str) -> Finding:
    """Judge adversarial images (n, C, H, W) of the samples ``after.fallen`` that are looked at again."""
    rows = after.fallen
    inside = after.threat.contains(adversarial.to(after.device), after.originals(rows)).cpu()
    margins, scale = after.margins(adversarial, rows)
    n, outside = len(rows), int((~inside).sum())
    edge = int(((margins <= 0) & (margins > -ROUNDING * scale)).sum())
    right = int((margins <= -ROUNDING * scale).sum())
    return Finding.graded(
        f"{n - edge - right} of {n} {what} still fool, {edge} within rounding of the edge, {outside} left the ball",
        "Distrust these successes: the model's answer is not a function of the image alone, or images were changed.",
        fail=surely_above(RARE, right + outside, n) and not after.randomised,
        warn=right + outside > 0,
    )


def _reverified(after: Aftermath) -> Finding | None:
    broke = int(np.sum(~after.result.standing & (after.result.clean_pred == after.result.label)))
    if not broke:
        return None
    if not len(after.fallen) or after.result.adversarial is None:
        advice = "Evaluate fewer images (--n), or in one go, to have the successes looked at again."
        return Finding("WARN", f"none of {broke} adversarial images was kept", advice)
    return _still_fool(after, after.result.adversarial[after.fallen], "adversarial images in other batches")


def _stored(after: Aftermath) -> Finding | None:
    if not len(after.fallen) or after.result.adversarial is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adversarial.safetensors"
        save_file({"images": after.result.adversarial[after.fallen].float().contiguous()}, path)
        return _still_fool(after, load_file(path)["images"], "images read back from disk")


def _noise_baseline(after: Aftermath) -> Finding | None:
    standing = torch.from_numpy(np.flatnonzero(after.result.standing))
    if not len(standing):
        return None
    rows = sample_rows(standing, MOST_STANDING, "verify", "standing")
    fallen = torch.zeros(len(rows), dtype=torch.bool)
    for draw in range(DRAWS):
        parts = []
        for part in rows.split(after.batch_size):  # type: ignore[no-untyped-call]
            noisy = after.threat.random_start(after.originals(part), after.noise(part).at("draw", draw))
            parts.append(after.margins(noisy, part)[0] > 0)
        fallen |= torch.cat(parts)
    broken = int(fallen.sum())
    return Finding.graded(
        f"{count(broken, len(rows))} samples that stand after the attacks fell to {DRAWS} draws of noise",
        "Use stronger attacks: random noise found what these did not.",
        fail=surely_above(RARE, broken, len(rows)),
        warn=broken > 0,
    )


def _more_steps(after: Aftermath) -> Finding | None:
    if not len(after.attacked):
        return None
    few = after.survivors(after.attacked, after.threat, steps=STEPS)
    many = after.survivors(after.attacked, after.threat, steps=4 * STEPS)
    counts = PairedCounts.of(few, many)
    n, worse = len(few), counts.difference < 0
    return Finding.graded(
        f"PGD left {count(int(few.sum()), n)} samples after {STEPS} steps, {int(many.sum())} after {4 * STEPS}",
        "Look for a loss that misleads: more steps of an attack must not break fewer samples.",
        fail=worse and counts.p_value < 0.01,
        warn=worse and counts.significant,
    )


def _large_eps(after: Aftermath) -> Finding | None:
    if not len(after.attacked):
        return None
    rows, pixels = after.attacked, math.prod(after.images.shape[1:])
    radius = {"linf": 0.5, "l2": 0.5 * math.sqrt(pixels), "l1": 0.5 * pixels}[after.threat.norm]
    large = after.threat.with_eps(max(radius, after.threat.radius))
    n, left = len(rows), int(after.survivors(rows, large, steps=2 * STEPS).sum())
    chance = 1 / after.result.num_classes
    return Finding.graded(
        f"{count(left, n)} samples stand at {large.norm} {float(large.eps):.3g}, where any image can be made grey",
        "Distrust the robust accuracy: gradients are masked, for no classifier is robust at such a radius.",
        fail=surely_above(chance, left, n),
        warn=left > 0.05 * n,
    )


def _black_box(after: Aftermath) -> Finding | None:
    """Count what Square broke of what a gradient attack had left; of no use where there was none before it."""
    stages = [stage for attack in after.result.attacks for stage in attack.stages]
    first = next((place for place, stage in enumerate(stages) if stage.name != "square"), len(stages))
    squares = [stage for stage in stages[first:] if stage.name == "square"]
    attacked, broken = sum(stage.attacked for stage in squares), sum(stage.broken for stage in squares)
    if not attacked:
        return None
    return Finding.graded(
        f"Square broke {count(broken, attacked)} samples that gradient attacks had left",
        "Attack adaptively: an attack without gradients must not find what attacks with them miss.",
        fail=surely_above(5 * RARE, broken, attacked),
        warn=surely_above(RARE, broken, attacked),
    )


CHECKS: dict[str, Callable[[Aftermath], Finding | None]] = {
    "reverified": _reverified,
    "stored": _stored,
    "noise-baseline": _noise_baseline,
    "more-steps": _more_steps,
    "large-eps": _large_eps,
    "black-box": _black_box,
}
OF_ATTACKS = frozenset(CHECKS) - {"reverified", "stored"}
"""The checks whose failure speaks against the attacks; images that fool no longer speak against the model."""


def verify(
    result: Evaluation,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    randomised: bool = False,
    batch_size: int = 250,
    device: torch.device | str | None = None,
) -> list[Check]:
    """Check an evaluation that is over.

    The model is put in eval mode for the time of the call. The checks cost at most 2,000 forward passes for what fell
    and stands, and 140 steps of PGD on each of at most 48 samples (and at most a tenth of all, or 8).

    Args:
        result: what :func:`~robustbench_gkl.evaluation.evaluate` returned, best with ``keep_adversarial=True``.
        model, images, labels, threat: what it was called with.
        seed: of the random numbers, which are not those of the attacks.
        randomised: the attacks averaged over random answers, so that a success need not come about each time.
        batch_size: images at a time.
        device: where to run; None for where the model's parameters are.

    Returns:
        The checks that apply, in a fixed order; a black-box check, for one, needs a black-box attack.
    """
    parameter = next(model.parameters(), None)
    where = device if device is not None else parameter.device if parameter is not None else "cpu"
    with attack_mode(model), full_precision():
        where = torch.device(where)
        after = Aftermath(model, images, labels.cpu().long(), threat, result, seed, batch_size, where, randomised)
        return judge(CHECKS, after, of_attacks=OF_ATTACKS)
