"""The exact minimum of a linear function of a network's logits on a box, by mixed-integer programming (HiGHS)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.operations import Affine, Interval, Operation


def exact_minimum(network: Network, box: Interval, row: np.ndarray) -> float:
    """Return the least value of ``row`` (K,) times the logits over one image's box.

    Every value of every step is a variable, and so is the phase of each ReLU.
    """
    network = network.to(torch.float64)
    box = Interval(box.low.double(), box.high.double())
    known = [box]
    for step in network.steps[1:]:
        known.append(step.interval(*(known[source] for source in step.inputs)))
    sizes = [torch.Size(step.shape).numel() for step in network.steps]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    relus = [number for number in range(len(sizes)) if number in network.relus]
    phases = {number: starts[-1] + sum(sizes[relu] for relu in relus[:place]) for place, number in enumerate(relus)}
    count = starts[-1] + sum(sizes[relu] for relu in relus)
    matrices, low, high = [], [], []

    def constrain(block: np.ndarray, least: np.ndarray, most: np.ndarray) -> None:
        matrices.append(block)
        low.append(least)
        high.append(most)

    for number, step in enumerate(network.steps[1:], start=1):
        here = np.zeros((sizes[number], count))
        here[:, starts[number] : starts[number + 1]] = np.eye(sizes[number])
        if isinstance(step, Affine):
            matrix, constant = _matrices(step, network)
            for source, part in zip(step.inputs, matrix, strict=True):
                here[:, starts[source] : starts[source + 1]] -= part
            constrain(here, constant, constant)
            continue
        (source,) = step.inputs
        below, above = (end.flatten().numpy() for end in (known[source].low, known[source].high))
        less = here.copy()
        less[:, starts[source] : starts[source + 1]] -= np.eye(sizes[number])
        infinite = np.full(sizes[number], np.inf)
        constrain(less, np.zeros(sizes[number]), infinite)  # at least z
        on = np.zeros_like(here)
        on[:, phases[number] : phases[number] + sizes[number]] = np.eye(sizes[number])
        constrain(here - np.maximum(above, 0)[:, None] * on, -infinite, np.zeros(sizes[number]))  # 0 where off
        constrain(less - np.minimum(below, 0)[:, None] * on, -infinite, -np.minimum(below, 0))  # z where on
    least, most = np.full(count, -np.inf), np.full(count, np.inf)
    least[: sizes[0]], most[: sizes[0]] = box.low.flatten().numpy(), box.high.flatten().numpy()
    for number in relus:
        least[starts[number] : starts[number + 1]] = 0
        least[phases[number] : phases[number] + sizes[number]] = 0
        most[phases[number] : phases[number] + sizes[number]] = 1
    whole = np.zeros(count)
    whole[starts[-1] :] = 1
    cost = np.zeros(count)
    cost[starts[-2] : starts[-1]] = row
    found = milp(
        cost,
        constraints=LinearConstraint(np.concatenate(matrices), np.concatenate(low), np.concatenate(high)),
        integrality=whole,
        bounds=Bounds(least, most),
        options={"mip_rel_gap": 0},
    )
    assert found.status == 0, found.message
    return float(found.fun)


def _matrices(step: Operation, network: Network) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the matrix of each of a step's inputs, and its constants."""
    shapes = [network.steps[source].shape for source in step.inputs]
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes]
    constant = step(*zeros).flatten()
    found = []
    for place, shape in enumerate(shapes):
        eye = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
        given = [zero.expand(len(eye), *zero.shape[1:]) for zero in zeros]
        given[place] = eye.reshape(-1, *shape)
        found.append((step(*given).flatten(1) - constant).T.numpy())
    return found, constant.numpy()
