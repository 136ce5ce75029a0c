"""Journal entries read back: the verdicts that are known, and what is left to be done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from robustbench_gkl.attacks import AttackSpec, SearchSpec
from robustbench_gkl.attacks.specs import Ball
from robustbench_gkl.attacks.specs.certify import Certify
from robustbench_gkl.evaluation.effort import Tried
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.results.journal import Journal
from robustbench_gkl.results.record import StageResult

Entry = Mapping[str, Any]

COUNTED = ("rejected", "candidates", "unmoved", "nonfinite", "forwards", "backwards")
"""What journal entries count."""


class StageLog:
    """The journal entries of one stage of an attack.

    An entry has the restarts that ended without a success (``done``, pairs of position and restart), the positions
    that fell with their verdicts, and what it took since the entry before.

    Args:
        attack: the stage.
        name: the name in the verdicts of the samples that it breaks.
        key: names the stage in the journal.
        runs: how many restarts or targets a sample goes through.
    """

    def __init__(self, attack: AttackSpec, *, name: str, key: str, runs: int) -> None:
        self.attack, self.name, self.key, self.runs = attack, name, key, runs
        self.totals = dict.fromkeys(COUNTED, 0)
        self.seconds: dict[str, float] = defaultdict(float)
        """Spent on the stage by each part of the journal."""

    def take_in(self, entry: Entry, result: Evaluation) -> None:
        """Add an entry's verdicts to ``result``, and its counts here."""
        fallen = entry["fallen"]
        result.broken_by[fallen] = self.name
        result.adv_pred[fallen] = entry["adv_pred"]
        result.distance[fallen] = entry["distance"]
        for position, method in entry.get("certified", ()):
            result.certify(position, method)
        for key in self.totals:
            self.totals[key] += entry[key]
        self.seconds[entry["part"]] += entry["seconds"]

    def replay(self, entries: Iterable[Entry], standing: Sequence[int], result: Evaluation) -> dict[int, int]:
        """Take in the stage's entries; return the samples of ``standing`` that are left, and the restart each is at.

        Samples that are certified are not left: nothing can break them.
        """
        at = dict.fromkeys(standing, 0)
        for entry in entries:
            if entry.get("stage") != self.key:
                continue
            self.take_in(entry, result)
            for position in entry["fallen"]:
                at.pop(position, None)
            for position, run in entry["done"]:
                if position in at:
                    at[position] = max(run + 1, at[position])
        return {position: run for position, run in at.items() if run < self.runs and not result.is_certified(position)}

    def result(self, *, attacked: int, broken: int) -> StageResult:
        """Return the stage's line in the record."""
        return StageResult(
            name=self.name,
            family=self.attack.family,
            gradients=self.attack.gradients,
            targeted=self.attack.targeted,
            averages=self.attack.averages,
            minimal=self.attack.minimal,
            length=self.attack.length,
            attacked=attacked,
            broken=broken,
            seconds=round(max(self.seconds.values(), default=0.0), 3),
            **self.totals,
        )


def stage_logs(attack: AttackSpec, variant: AttackSpec, threat: Ball, *, num_classes: int) -> list[StageLog]:
    """Return the logs of the stages of ``variant``, which is what runs of ``attack``."""
    stages = variant.stages(threat, num_classes=num_classes)
    return [
        StageLog(
            stage,
            name=stage.label if len(stages) == 1 else stage.name,
            key=f"{attack.label}/{stage.name}",
            runs=stage.runs(threat, num_classes=num_classes) if isinstance(stage, SearchSpec) else 1,
        )
        for stage in stages
    ]


def certificate_log() -> StageLog:
    """Return the log of the certificates that spare attacks, which come after the first stage and are none of one."""
    return StageLog(Certify(), name=Certify.name, key=Certify.name, runs=1)


def spent_before(entries: Iterable[Entry]) -> float:
    """Return the seconds of the process that worked longest, by its entries."""
    spent: dict[str, float] = defaultdict(float)
    for entry in entries:
        spent[entry.get("part", "")] += entry.get("seconds", 0.0)
    return max(spent.values(), default=0.0)


def clean_predictions(entries: Iterable[Entry]) -> dict[int, int]:
    """Return the clean predictions that are noted, by position; the first one counts."""
    noted: dict[int, int] = {}
    for entry in entries:
        noted = dict(entry.get("clean", ())) | noted
    return noted


def noted_batch_size(entries: Iterable[Entry]) -> int | None:
    """Return the batch size that was found fastest, halved where memory ran out: the last that is noted."""
    return next((int(entry["batch_size"]) for entry in reversed(list(entries)) if "batch_size" in entry), None)


def kept_images(journal: Journal, shape: tuple[int, ...], result: Evaluation) -> None:
    r"""Take in the adversarial images (..., \*shape) that the journal keeps, if ``result`` has room for them."""
    import torch

    if result.adversarial is not None:
        for positions, images in journal.images(shape):
            result.put_images(positions.copy(), torch.from_numpy(images.copy()))


def replayed(
    attacks: Sequence[tuple[AttackSpec, AttackSpec]],
    threat: Ball,
    entries: Sequence[Entry],
    *,
    index: np.ndarray,
    label: np.ndarray,
    num_classes: int,
) -> tuple[Evaluation, list[int]]:
    """Return the outcome that journal entries amount to, and the positions of the samples that lack something.

    Args:
        attacks: each attack and what runs of it (itself or its published implementation), in order.
        threat: norm and radius.
        entries: of all parts of the journal.
        index, label: (N,) of the samples.
        num_classes: of the model.
    """
    noted = clean_predictions(entries)
    known = np.isin(np.arange(len(label)), list(noted))
    prediction = label.copy()
    prediction[list(noted)] = list(noted.values())
    result = Evaluation.begin(index, label, prediction, num_classes=num_classes)
    for attack, variant in attacks:
        stages = []
        for log in stage_logs(attack, variant, threat, num_classes=num_classes):
            standing = np.flatnonzero(result.standing & known)
            left = list(log.replay(entries, standing.tolist(), result))
            if isinstance(log.attack, Certify):
                tried = Tried(entries, log.key)
                left = [position for position in left if tried.is_unfinished(position, result)]
            known[left] = False
            if result.certified_by is None:
                certificate_log().replay(entries, (), result)
            stages.append(log.result(attacked=len(standing), broken=int((~result.standing[standing]).sum())))
        result.add_attack(attack, stages)
    result.seconds = spent_before(entries)
    return result, np.flatnonzero(~known).tolist()
