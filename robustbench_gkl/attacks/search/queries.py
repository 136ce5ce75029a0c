"""Calls of the model at the query points of a search."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.search.base import Search
from robustbench_gkl.attacks.search.slots import Answer, Rows, copy_rows, fetched
from robustbench_gkl.core.device import TensorCores, sent
from robustbench_gkl.core.errors import UserError

Precision = Literal["float32", "tf32", "bf16"]


class Queries:
    """Calls the model for a search.

    Args:
        search: whose query points are evaluated.
        model: images (B, C, H, W) to logits (B, K).
        name: of the attack, for errors.
        precision: of the model.

    Attributes:
        forward: the context in which the model is called; that of its gradients is :attr:`around` alone.
        around: the context of everything.
        nonfinite: gradients with NaN or infinite values under finite logits, so far; such values count as 0.
    """

    def __init__(self, search: Search, model: Model, *, name: str, precision: Precision) -> None:
        self.search, self.model, self.name = search, model, name
        self.forward, self.around = _contexts(precision, search.space.device)
        self.nonfinite = 0

    def ask(self, rows: Rows, *, gradient: bool) -> Answer:
        """Return the model's answer at the query points of ``rows``; without ``gradient`` only the logits.

        Raises:
            UserError: NaN or infinite logits.
        """
        search = self.search
        search.prepare(rows)
        logits, value, slope = self._evaluate(rows, gradient=gradient)
        # On the host, where all decisions fall: a few numbers a sample cost less to fetch than to judge there.
        answer, broken, lengths = _answer(logits, slope, search.lengths(rows))
        usable = np.isfinite(answer).all(1)
        if not usable.all():
            raise UserError(
                f"the model gives NaN or infinite logits for {int((~usable).sum())} of {len(answer)} images "
                f"under attack by {self.name}; robustness cannot be judged: look at its layers and its range"
            )
        if slope is not None and broken is not None and broken.any():
            self.nonfinite += int(broken.sum())
            slope.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        wrong = answer.argmax(1) != search.host_labels[rows.host]
        return Answer(torch.from_numpy(answer), wrong, value, slope, lengths)

    def _evaluate(self, rows: Rows, *, gradient: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return logits (B, K), objective (B,) and gradient (B, C, H, W), the mean of several evaluations."""
        search, at = self.search, rows.device
        points = search.query[at].detach()
        if not gradient:
            with torch.no_grad(), self.around, self.forward:
                return self.model(points).float(), None, None
        labels, targets = search.labels[at], search.targets[at]
        points.requires_grad_()
        total: Tensor | None = None
        for _ in range(search.evaluations):
            with torch.enable_grad(), self.around:
                with self.forward:
                    logits = self.model(points)
                logits = logits.float()
                value, slope = search.slope(logits, labels, targets, points)
            if 0 in slope.stride():  # one number stands for many pixels, as where the model adds them up
                slope = slope.contiguous()
            total = slope if total is None else total.add_(slope)
        assert total is not None
        if search.evaluations > 1:
            total /= search.evaluations
        return logits.detach(), value, total


def _answer(
    logits: Tensor, slope: Tensor | None, lengths: Tensor | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return the logits (B, K), which gradients (B, ...) hold NaN or infinite values, (B,) bool, and lengths (B,).

    All come to the host in one transfer. A sum over finite values can overflow: the few gradients whose sum is not
    finite are checked value by value.
    """
    sums = None if slope is None else slope.flatten(1).sum(1)
    found = iter(fetched(*(part for part in (logits, sums, lengths) if part is not None)))
    answer, broken = next(found), None
    if slope is not None:
        broken = ~np.isfinite(next(found))
        if broken.any():
            rows = sent(torch.from_numpy(broken.nonzero()[0]), slope.device)
            broken[broken] = (~slope[rows].isfinite()).flatten(1).any(1).cpu().numpy()
    return answer, broken, next(found, None)


def _contexts(
    precision: Precision, device: torch.device
) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Return the contexts of forward passes and of forward and backward passes, for ``precision``.

    Gradients have the types of autocast's forward pass by themselves; TF32 is looked up at each product.
    """
    nothing = contextlib.nullcontext()
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16), nothing
    return nothing, TensorCores(allowed=True) if precision == "tf32" else nothing


class LastWrong:
    """The last misclassified query point of each slot, for models whose answers are random.

    Where a step averages several evaluations, the model is expected to be random, and one of a hundred answers may be
    wrong by chance. Such a run is judged at its end, by a new answer at the last point that was misclassified, as in
    pyautoattack.

    Attributes:
        known: (slots,) bool on the host: whether there is such a point.
    """

    def __init__(self, queries: Queries) -> None:
        self._queries, self._points = queries, torch.zeros_like(queries.search.query)
        self.known = np.zeros(len(self._points), dtype=bool)

    def keep(self, slots: np.ndarray) -> None:
        """Note that the query points of ``slots`` (n,) int64 are misclassified."""
        query = self._queries.search.query
        copy_rows(self._points, query, sent(torch.from_numpy(slots), query.device))
        self.known[slots] = True

    def move(self, source: int, target: int) -> None:
        """Copy one slot's state over another's."""
        self._points[target] = self._points[source]
        self.known[target] = self.known[source]

    def still_wrong(self, slots: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Return those of ``slots`` (n,) whose points are misclassified again, (m,), and the points (m, C, H, W)."""
        device = self._points.device
        points = self._points[sent(torch.from_numpy(slots), device)]
        with torch.no_grad(), self._queries.around, self._queries.forward:
            predicted = self._queries.model(points).argmax(1).cpu().numpy()
        wrong = predicted != self._queries.search.host_labels[slots]
        return slots[wrong], points[sent(torch.from_numpy(wrong.nonzero()[0]), device)]
