"""Robustness on the validation images while training, and what to make of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.attacks.objectives import objective_for
from robustbench_gkl.attacks.pgd import ascend
from robustbench_gkl.attacks.specs.pgd import default_step_size
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import ImageSet, to_unit
from robustbench_gkl.models import Classifier
from robustbench_gkl.ranks.collectives import ALONE, World, sum_over_ranks


def validate(
    model: Classifier,
    images: ImageSet,
    threat: ThreatModel,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    world: World = ALONE,
) -> tuple[float, float]:
    """Return clean and PGD accuracy in percent: ``steps`` of 2.5 eps / steps from one random start.

    Args:
        model: on the device where it is to be run; put in eval mode for the time of the call.
        images: the validation images.
        threat: the threat model at its full radius.
        steps: of the ascent on the cross-entropy.
        seed: of the random start.
        batch_size: images at a time.
        world: the processes that share the images; all of them have to call this, and get the same.
    """
    device = next(model.parameters()).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    standing = torch.zeros((), dtype=torch.int64, device=device)
    own = torch.arange(len(images))[world.rows]
    with attack_mode(model):
        for rows in own.split(batch_size):  # type: ignore[no-untyped-call]
            points = to_unit(images.images[rows].to(device)).contiguous(memory_format=torch.channels_last)
            labels = images.labels[rows].to(device)
            adversarial = ascend(
                model,
                points,
                threat,
                objective=objective_for("ce", labels),
                start=threat.random_start(points, Noise(seed, rows.to(device)).at("probe")),
                steps=steps,
                step_size=float(default_step_size(threat, steps)),
            )
            with torch.no_grad():
                right = model(points).argmax(1) == labels
                correct += right.sum()
                standing += (right & (model(adversarial).argmax(1) == labels)).sum()
    sum_over_ranks([correct, standing], world)
    share = 100 / len(images)
    return round(share * int(correct), 3), round(share * int(standing), 3)


def overfitting(rows: Sequence[dict[str, float]]) -> str | None:
    """Return a warning if robust validation accuracy has collapsed in the last of ``rows``, else None.

    Catastrophic overfitting (arXiv 2001.03994) is a fall to less than half of the best, when the training attack
    finds nothing any more. Robust overfitting (arXiv 2002.11569) is a slow decline, here to three points below the
    best for three epochs in a row, while robust training accuracy is above what it was at the best.
    """
    robust = [row["val_robust_acc"] for row in rows]
    best = max(robust)
    since = f"robust validation accuracy fell from {best:.1f} % (epoch {robust.index(best) + 1}) to {robust[-1]:.1f} %"
    if best >= 10 and robust[-1] < best / 2 and (len(robust) < 2 or robust[-2] >= best / 2):
        return f"{since}: catastrophic overfitting? use more attack steps or a smaller step; best is kept"
    declined = [value < best - 3 for value in robust[-4:]]
    if robust[-1] >= best / 2 and declined[-3:] == [True] * 3 and declined[:-3] != [True]:
        training = [row.get("train_robust_acc", 0.0) for row in rows]
        if training[-1] > training[robust.index(best)]:
            return f"{since} while training accuracy rose: robust overfitting; best is kept"
    return None
