"""Accuracy on the validation images while training, and signs that a run goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model, attack_mode
from robustbench_gkl.attacks.objectives import objective_for
from robustbench_gkl.attacks.pgd import ascend
from robustbench_gkl.attacks.specs.pgd import default_step_size
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import ImageSet, to_unit
from robustbench_gkl.models import Classifier
from robustbench_gkl.ranks.collectives import ALONE, World, sum_over_ranks


@dataclass
class Validator:
    """Measures a run's model on its validation images.

    Attributes:
        config: the recipe.
        images, rows, batch_size, world: see :func:`validate`.
        teacher: of the run, on the device of its model; None for none.
    """

    config: TrainConfig
    images: ImageSet
    rows: Tensor
    teacher: Model | None
    batch_size: int
    world: World = ALONE
    _taught: Tensor | None = field(default=None, init=False)

    def __call__(self, model: Classifier) -> dict[str, float]:
        """Return what :func:`validate` does; the teacher, whose answers stay the same, is asked the first time."""
        if self.teacher is not None and self._taught is None:
            points = self.rows.split(self.batch_size)  # type: ignore[no-untyped-call]
            device = next(model.parameters()).device
            found = [_predicted(self.teacher, _points(self.images, some, device)) for some in points]
            self._taught = torch.cat(found)
        return validate(
            model,
            self.images,
            self.rows,
            self.config.threat.threat(),
            steps=self.config.probe.steps,
            seed=self.config.seed,
            batch_size=self.batch_size,
            taught=self._taught,
            world=self.world,
        )


def validate(
    model: Classifier,
    images: ImageSet,
    rows: Tensor,
    threat: ThreatModel,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    taught: Tensor | None = None,
    world: World = ALONE,
) -> dict[str, float]:
    """Return accuracies in percent under the names of ``metrics.csv``: clean and, with ``steps``, under PGD.

    PGD takes ``steps`` steps of 2.5 eps / steps from one random start. The agreement with a teacher is how many images
    both put into the same class.

    Args:
        model: on the device where it is to be run; put in eval mode for the time of the call.
        images: hold the validation images.
        rows: (n,) int64, at which positions.
        threat: the threat model at its full radius.
        steps: of the ascent on the cross-entropy; 0 for none, which leaves out the accuracy under it.
        seed: of the random start.
        batch_size: images at a time.
        taught: (n,) the classes that the teacher predicts.
        world: the processes that share the images; all of them have to call this, and get the same.
    """
    device = next(model.parameters()).device
    correct, standing, agreeing = torch.zeros(3, 1, dtype=torch.int64, device=device)
    own = torch.arange(len(rows))[world.rows]
    with attack_mode(model):
        for some in own.split(batch_size) if len(own) else ():  # type: ignore[no-untyped-call]
            points, labels = _points(images, rows[some], device), images.labels[rows[some]].to(device)
            predicted = _predicted(model, points)
            right = predicted == labels
            correct += right.sum()
            if taught is not None:
                agreeing += (predicted == taught[some].to(device)).sum()
            if steps:
                adversarial = ascend(
                    model,
                    points,
                    threat,
                    objective=objective_for("ce", labels),
                    start=threat.random_start(points, Noise(seed, some.to(device)).at("probe")),
                    steps=steps,
                    step_size=float(default_step_size(threat, steps)),
                )
                standing += (right & (_predicted(model, adversarial) == labels)).sum()
    sum_over_ranks([correct, standing, agreeing], world)
    found = {"val_clean_acc": correct}
    found |= {"val_robust_acc": standing} if steps else {}
    found |= {} if taught is None else {"val_agreement": agreeing}
    return {name: round(100 / len(rows) * int(count), 3) for name, count in found.items()}


def _points(images: ImageSet, rows: Tensor, device: torch.device) -> Tensor:
    """Return the images at the positions ``rows`` (n,), (n, C, H, W) in [0, 1], channels last."""
    return to_unit(images.images[rows].to(device)).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _predicted(model: Model, points: Tensor) -> Tensor:
    return model(points).argmax(1)


def newest_is_best(rows: Sequence[dict[str, float]], *, adversarial: bool) -> bool:
    """Return True if the newest of ``rows`` was validated and is better than all before it.

    Robust accuracy decides before clean accuracy if the training is ``adversarial``, and after it if not.
    """

    def merit(row: dict[str, float]) -> tuple[float, float]:
        clean, robust = row["val_clean_acc"], row.get("val_robust_acc", 0.0)
        return (robust, clean) if adversarial else (clean, robust)

    before = [merit(row) for row in rows[:-1] if "val_clean_acc" in row]
    return "val_clean_acc" in rows[-1] and merit(rows[-1]) > max(before, default=(-1.0, -1.0))


def divergence(means: Mapping[str, float], model: Classifier) -> str | None:
    """Return what is no finite number any more, the running means or the model's own tensors; None if all are."""
    for name, value in means.items():
        if not math.isfinite(value):
            return f"the {name.replace('_', ' ')} became {'NaN' if math.isnan(value) else 'infinite'}"
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
    return None if bool(finite) else "the weights became infinite or NaN"


def overfitting(rows: Sequence[dict[str, float]]) -> str | None:
    """Return a warning if robust validation accuracy has collapsed in the last of ``rows``, else None.

    Catastrophic overfitting (arXiv 2001.03994) is a fall to less than half of the best, when the training attack
    finds nothing any more. Robust overfitting (arXiv 2002.11569) is a slow decline, here to three points below the
    best for three measurements in a row, while robust training accuracy is above what it was at the best.
    """
    if not rows or "val_robust_acc" not in rows[-1]:
        return None
    rows = [row for row in rows if "val_robust_acc" in row]
    robust = [row["val_robust_acc"] for row in rows]
    best = max(robust)
    epoch = rows[robust.index(best)]["epoch"]
    since = f"robust validation accuracy fell from {best:.1f} % (epoch {epoch:g}) to {robust[-1]:.1f} %"
    if best >= 10 and robust[-1] < best / 2 and (len(robust) < 2 or robust[-2] >= best / 2):
        return f"{since}: catastrophic overfitting? use more attack steps or a smaller step; best is kept"
    declined = [value < best - 3 for value in robust[-4:]]
    if robust[-1] >= best / 2 and declined[-3:] == [True] * 3 and declined[:-3] != [True]:
        training = [row.get("train_robust_acc", 0.0) for row in rows]
        if training[-1] > training[robust.index(best)]:
            return f"{since} while training accuracy rose: robust overfitting; best is kept"
    return None
