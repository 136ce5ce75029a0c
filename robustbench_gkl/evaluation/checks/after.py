"""Checks after the attacks: successes are verified again, and survivors tested for attacks that were too weak."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.core.device import device_of, full_precision
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.evaluation.checks.attacked import Attacked
from robustbench_gkl.evaluation.checks.black_box import black_box
from robustbench_gkl.evaluation.checks.finding import RARE, ROUNDING, Finding, count, judge, sample_rows, surely_above
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.results.paired import PairedCounts
from robustbench_gkl.results.record import (
    Check,
    CheckVerdict,
)

MOST_STANDING = 250
"""Samples that random noise is tried on."""
DRAWS = 4
"""Of noise, for each."""
STEPS = 10
"""Of the shorter PGD; the longer one has four times as many."""


def _still_fool(after: Attacked, adversarial: Tensor, what: str) -> Finding:
    """Judge adversarial images (n, C, H, W) of the samples ``after.fallen`` that are looked at again."""
    rows = after.fallen
    inside = after.threat.contains(adversarial.to(after.device), after.originals(rows)).cpu()
    margins, scale = after.margins(adversarial, rows)
    n, outside = len(rows), int((~inside).sum())
    right = int((margins < -ROUNDING * scale).sum())
    edge = int((margins <= 0).sum()) - right  # ties among them, also where all logits are zero and so is their scale
    return Finding.graded(
        f"{n - edge - right} of {n} {what} still fool, {edge} within rounding of the edge, {outside} left the ball",
        "Distrust these successes: the model's answer is not a function of the image alone, or images were changed.",
        fail=surely_above(RARE, right + outside, n) and not after.randomised,
        warn=right + outside > 0,
    )


def _reverified(after: Attacked) -> Finding | None:
    broke = int(np.sum(~after.result.standing & (after.result.clean_pred == after.result.label)))
    if not broke:
        return None
    if not len(after.fallen) or after.result.adversarial is None:
        advice = "Evaluate fewer images (--n), or in one go, to have the successes looked at again."
        return Finding("WARN", f"none of {broke} adversarial images was kept", advice)
    return _still_fool(after, after.result.adversarial[after.fallen], "adversarial images in other batches")


def _stored(after: Attacked) -> Finding | None:
    if not len(after.fallen) or after.result.adversarial is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adversarial.safetensors"
        save_file({"images": after.result.adversarial[after.fallen].float().contiguous()}, path)
        return _still_fool(after, load_file(path)["images"], "images read back from disk")


def _noise_baseline(after: Attacked) -> Finding | None:
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


def _more_steps(after: Attacked) -> Finding | None:
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


def _large_eps(after: Attacked) -> Finding | None:
    if not len(after.attacked):
        return None
    rows = after.attacked
    large = after.threat.with_eps(max(after.threat.grey_radius(after.images.shape[1:]), after.threat.radius))
    n, left = len(rows), int(after.survivors(rows, large, steps=2 * STEPS).sum())
    chance = 1 / after.result.num_classes
    return Finding.graded(
        f"{count(left, n)} samples stand at {large.norm} {float(large.eps):.3g}, where any image can be made grey",
        "Distrust the robust accuracy: gradients are masked, for no classifier is robust at such a radius.",
        fail=surely_above(chance, left, n),
        warn=left > 0.05 * n,
    )


def _finite_gradients(after: Attacked) -> Finding | None:
    stages = [stage for attack in after.result.attacks for stage in attack.stages]
    if not sum(stage.backwards for stage in stages):
        return None
    broken = {stage.name: stage.nonfinite for stage in stages if stage.nonfinite}
    where = f", under {', '.join(broken)}" if broken else ""
    return Finding.graded(
        f"{sum(broken.values())} gradients of our own attacks held NaN or infinite values{where}",
        "Mend the layer whose gradient is not finite (a root or a logarithm at 0): attacks stop where they meet one.",
        fail=bool(broken),
    )


CHECKS: dict[str, Callable[[Attacked], Finding | None]] = {
    "reverified": _reverified,
    "stored": _stored,
    "noise-baseline": _noise_baseline,
    "more-steps": _more_steps,
    "large-eps": _large_eps,
    "black-box": black_box,
    "finite-gradients": _finite_gradients,
}
OF_ATTACKS = frozenset(CHECKS) - {"reverified", "stored"}
"""The checks whose failure speaks against the attacks; images that fool no longer speak against the model.

Gradients that are not finite are among them: they stopped these attacks at some points, and what fell has fallen.
A model that has no finite gradients to speak of fails the check ``gradients`` before the attacks.
"""


def check_evaluation(
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
    and stands, 140 steps of PGD on each of at most 48 samples (and at most a tenth of all, or 8), and for the check
    ``black-box`` no more than the attacks did.

    Args:
        result: what :func:`~robustbench_gkl.evaluation.evaluate` returned, best with ``keep_adversarial=True``.
        model, images, labels, threat: what it was called with.
        seed: of the random numbers, which are not those of the attacks.
        randomised: the attacks averaged over random answers, so that a success need not repeat each time.
        batch_size: images at a time.
        device: where to run; None for where the model's parameters are.

    Returns:
        The checks that apply, in a fixed order; a black-box check, for one, needs attacks with gradients.
    """
    where = device_of(model) if device is None else torch.device(device)
    with attack_mode(model), full_precision():
        after = Attacked(model, images, labels.cpu().long(), threat, result, seed, batch_size, where, randomised)
        return judge(CHECKS, after, of_attacks=OF_ATTACKS)


def candidates_in_ball(result: Evaluation) -> list[Check]:
    """Return what is to be said of candidates that the engine refused, and of attacks that proposed nothing.

    An attack most of whose candidates are refused searches elsewhere, so it has not attacked; one that looks for the
    nearest adversarial image finds it outside the ball wherever the model is robust.
    """
    stages = [stage for attack in result.attacks for stage in attack.stages]
    rejected, candidates = (sum(getattr(stage, key) or 0 for stage in stages) for key in ("rejected", "candidates"))
    astray = [stage.name for stage in stages if 2 * stage.rejected > (stage.candidates or 0) and not stage.minimal]
    idle = [stage.name for stage in stages if stage.candidates and stage.unmoved == stage.candidates]
    figure, advice = f"{rejected} of {candidates} rejected", ""
    if rejected:
        figure += f", most of {', '.join(astray)}" if astray else ""
        advice = "An attack left the threat model; its images were not counted."
    if idle:
        figure += f"; {', '.join(idle)} proposed nothing but the originals"
        advice = f"{advice} Give an attack that moves the images.".strip()
    verdict: CheckVerdict = "FAIL" if astray or idle else "WARN" if rejected else "PASS"
    return [Check(name="candidates-in-ball", verdict=verdict, figure=figure, advice=advice, scope="attack")]
