"""Candidates that an attack proposes, and the judgement on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.search.slots import fetched
from robustbench_gkl.attacks.search.tasks import Task
from robustbench_gkl.core.device import sent
from robustbench_gkl.evaluation.context import Context


@dataclass(frozen=True)
class Judgement:
    """What became of some candidates.

    Attributes:
        broken: (B,) bool on the host: those that are allowed and misclassified.
        rejected: how many are not allowed.
        tasks: n, of the broken ones.
        prediction: (n,), the classes that these are taken for.
        distance: (n,), how far they are from the originals.
        images: (n, C, H, W), they themselves.
    """

    broken: np.ndarray
    rejected: int
    tasks: Sequence[Task]
    prediction: np.ndarray
    distance: np.ndarray
    images: Tensor


@torch.no_grad()
def judge(context: Context, tasks: Sequence[Task], points: Tensor) -> Judgement:
    """Judge the candidates ``points`` (B, C, H, W) for the samples of ``tasks``.

    Each must be finite, in [0, 1] and in the ball, and misclassified when predicted anew in float32.
    """
    load = context.load([task.position for task in tasks])
    allowed = context.threat.contains(points, load.images)
    points = torch.where(allowed[:, None, None, None], points, load.images)
    distance = context.threat.distance(points, load.images)
    inside, prediction, lengths = fetched(allowed, context.meter(points).argmax(1), distance)
    broken: np.ndarray = (inside > 0) & (prediction != load.labels.numpy())
    found = broken.nonzero()[0]
    return Judgement(
        broken,
        int((inside == 0).sum()),
        [tasks[row] for row in found.tolist()],
        prediction[broken],
        lengths[broken],
        points[sent(torch.from_numpy(found), points.device)],
    )
