"""Accuracy against eps: one attack at several radii, each sample attacked only where its answer is not known yet.

A sample that falls at some radius falls at every larger one, for its adversarial image is allowed there too. One that
stands at some radius is taken to stand at the smaller ones. So each sample needs a binary search over the radii instead
of an attack at each: three attacks for eight radii.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_gkl.attacks import AttackSpec, parse_attack
from robustbench_gkl.core.exact import format_fraction
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.progress import Progress
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import StageResult


@dataclass
class Curve:
    """The radii at which each sample is known to stand or fall so far.

    Attributes:
        radii: rising; the first may be 0.
        stands: (N,) position of the largest radius at which the sample is known to stand; -1 for none.
        falls: (N,) position of the smallest radius at which it is known to fall; ``len(radii)`` for none.
        clean: the outcome without an attack.
        adv_pred, distance, broken_by: (N,) of the adversarial image at ``falls``.
        spent: the stages of all evaluations made at each radius.
    """

    radii: tuple[Fraction, ...]
    stands: np.ndarray
    falls: np.ndarray
    clean: Evaluation
    adv_pred: np.ndarray
    distance: np.ndarray
    broken_by: np.ndarray
    spent: dict[int, list[StageResult]]

    @classmethod
    def begin(cls, radii: tuple[Fraction, ...], clean: Evaluation) -> Curve:
        """Return the curve of the clean predictions: wrong ones fall at every radius, right ones stand at 0."""
        wrong = clean.clean_pred != clean.label
        falls = np.where(wrong, 0, len(radii))
        stands = np.full(clean.n, 0 if radii[0] == 0 else -1)
        return cls(
            radii,
            np.where(wrong, -1, stands),
            falls,
            clean,
            clean.adv_pred.copy(),
            clean.distance.copy(),
            clean.broken_by.copy(),
            {},
        )

    def open(self) -> tuple[int, np.ndarray] | None:
        """Return a position in ``radii`` and the samples (n,) to attack there next; None if all is known."""
        middle = (self.stands + self.falls) // 2
        unknown = self.falls - self.stands > 1
        if not unknown.any():
            return None
        place = int(np.bincount(middle[unknown]).argmax())
        return place, np.flatnonzero(unknown & (middle == place))

    def update(self, place: int, rows: np.ndarray, outcome: dict[str, Any]) -> None:
        """Take in the outcome of attacking the samples ``rows`` at ``radii[place]``."""
        fallen = np.asarray(outcome["fallen"], dtype=np.int64)
        self.stands[np.setdiff1d(rows, fallen)] = place
        self.falls[fallen] = place
        self.adv_pred[fallen] = outcome["adv_pred"]
        self.distance[fallen] = outcome["distance"]
        self.broken_by[fallen] = outcome["broken_by"]
        stages = [StageResult.model_validate(stage) for stage in outcome["stages"]]
        self.spent.setdefault(place, []).extend(stages)

    def at(self, place: int, attack: AttackSpec) -> Evaluation:
        """Return the outcome of ``attack`` at ``radii[place]``."""
        fell = self.falls <= place
        broken_by = np.array([name if down else None for name, down in zip(self.broken_by, fell, strict=True)], object)
        result = replace(
            self.clean,
            broken_by=broken_by,
            adv_pred=np.where(fell, self.adv_pred, -1),
            distance=np.where(fell, self.distance, np.nan),
        )
        stages = tuple(self.spent.get(place, ()))
        result.attacks = []
        result.add_attack(attack, stages)
        result.seconds = sum(stage.seconds for stage in stages)
        return result


def evaluate_curve(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    radii: tuple[Fraction, ...],
    attack: str | AttackSpec,
    settings: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    *,
    journal: Journal | None = None,
    share: Share | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Evaluation]:
    """Measure robust accuracy at several radii.

    Args:
        model, images, labels: as for :func:`~robustbench_gkl.evaluation.evaluate`.
        threat: gives the norm; its radius does not matter.
        radii: rising, see :func:`robustbench_gkl.config.options.parse_grid`.
        attack: one spec or attack.
        settings: how to search.
        journal: keeps the outcome of each attack at one radius; what it holds is not done again. Rank 0 has it.
        share: the ranks that share the samples.
        on_progress: called a few times a second; its figures are those of the radius at hand.

    Returns:
        One outcome per radius. The ``distance`` of a sample that falls is that of the closest image found, at the
        smallest radius at which one was.

    Raises:
        UserError: as ``evaluate``.
    """
    attack = parse_attack(attack) if isinstance(attack, str) else attack
    share = share or Share()
    clean = measure(model, images, labels, threat.with_eps(0), [], settings, share=share)
    curve = Curve.begin(radii, clean)
    known = iter(share.exchange.from_leader(lambda: _outcomes(journal)))
    while (task := curve.open()) is not None:
        place, rows = task
        outcome = next(known, None)
        if outcome is None:
            chosen = torch.from_numpy(rows)
            found = measure(
                model,
                images[chosen],
                labels[chosen],
                threat.with_eps(radii[place]),
                [attack],
                settings,
                index=chosen,
                share=share,
                on_progress=on_progress,
            )
            outcome = _entry(rows, found)
            if journal is not None:
                journal.append(outcome)
        curve.update(place, rows, outcome)
    return [curve.at(place, attack) for place in range(len(radii))]


def grid_text(radii: Sequence[Fraction]) -> str:
    """Return the radii as :func:`robustbench_gkl.config.options.parse_grid` reads them."""
    return ",".join(map(format_fraction, radii))


def _outcomes(journal: Journal | None) -> list[dict[str, Any]]:
    """Return the outcomes that a journal keeps, in order."""
    return [] if journal is None else [entry for entry in journal.entries if "stages" in entry]


def _entry(rows: np.ndarray, found: Evaluation) -> dict[str, Any]:
    """Return the outcome of one evaluation as plain data, samples by their positions in the whole."""
    down = np.flatnonzero(~found.standing)
    return {
        "fallen": rows[down].tolist(),
        "adv_pred": found.adv_pred[down].tolist(),
        "distance": found.distance[down].tolist(),
        "broken_by": found.broken_by[down].tolist(),
        "stages": [stage.model_dump() for attack in found.attacks for stage in attack.stages],
    }
