"""Certificates of the samples of an evaluation: bounded in fixed groups, searched one by one, journalled as they come.

The groups are made of the samples that stand at the beginning, in their order, and each sample is searched by itself:
what is found of a sample does not depend on interruptions, nor on how many ranks share the groups.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from robustbench_gkl.attacks import AttackSpec
from robustbench_gkl.attacks.search.driver import Load, Task
from robustbench_gkl.attacks.specs.certify import Certify
from robustbench_gkl.certification.branching import Budget
from robustbench_gkl.certification.certifier import Bounded, Certifier
from robustbench_gkl.certification.reading import read_network
from robustbench_gkl.core.device import sent
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.evaluation.context import Context, SampleSet
from robustbench_gkl.evaluation.effort import Effort, Tried
from robustbench_gkl.evaluation.evaluation import Evaluation
from robustbench_gkl.evaluation.pace import Pace
from robustbench_gkl.evaluation.replay import COUNTED, StageLog
from robustbench_gkl.results.record import StageResult

GROUP = 8
"""Samples that are bounded together."""
_LISTEN_EVERY = 1.0
"""Seconds between two looks whether another rank has failed."""
PROBED = 2
"""Groups that are tried before the others where certificates are to spare attacks."""


def has_certification(attacks: Iterable[tuple[AttackSpec, AttackSpec]]) -> bool:
    """Return whether certificates are one of ``attacks`` (each with what runs of it), and not help for them."""
    return any(isinstance(attack, Certify) for attack, _ in attacks)


def read_certifier(model: nn.Module, samples: SampleSet, threat: ThreatModel) -> Certifier:
    """Return what certifies a model in eval mode.

    Raises:
        UserError: "unsupported: LAYER".
    """
    images = samples.load(range(min(2, len(samples)))).images
    return Certifier(read_network(model, images), threat)


def run_certificates(context: Context, log: StageLog, result: Evaluation, effort: Effort, *, probes: bool) -> None:
    """Certify what stands in ``result``; what the journal holds already is not done again.

    Args:
        context: the evaluation, with a certifier.
        log: the certificates' log.
        result: takes the certificates, the verdicts on samples that a search breaks, and whether it was stopped.
        effort: how far to go.
        probes: give up where the first groups hold no sample that is proved.
    """
    groups = _groups(np.flatnonzero(result.standing & context.mine))
    stage = _Certification(context, log, result, effort)
    for part in (groups[:PROBED], groups[PROBED:]) if probes else (groups,):
        result.partial = not stage.work(part)
        if result.partial:
            return
        tried = [position for group in groups[:PROBED] for position in group]
        if probes and tried and not any(result.is_certified(position) for position in tried):
            context.on_note(f"certificates are off: bounds prove none of the first {len(tried)} samples that stand")
            return


def certified_result(log: StageLog, standing: np.ndarray, result: Evaluation) -> StageResult:
    """Return the line in the record of certificates that are an attack of their own, on samples (N,) bool."""
    return log.result(attacked=int(standing.sum()), broken=int((standing & ~result.standing).sum()))


def _groups(positions: np.ndarray) -> list[list[int]]:
    return [positions[start : start + GROUP].tolist() for start in range(0, len(positions), GROUP)]


class _Certification:
    """Certifies groups of samples, and keeps the journal."""

    def __init__(self, context: Context, log: StageLog, result: Evaluation, effort: Effort) -> None:
        assert context.certifier is not None
        self.context, self.log, self.result, self.effort = context, log, result, effort
        self.certifier = context.certifier
        self.tried = Tried(context.entries, log.key)
        standing = np.flatnonzero(result.standing & context.mine).tolist()
        self.pace = Pace(context, name=log.name, restarts=1)
        log.replay(context.entries, standing, result)
        left = sum(map(self._is_open, standing))
        stands = int((result.standing & context.mine).sum())
        self.pace.attack(attacked=len(standing), standing=stands, done=len(standing) - left)
        self._news: list[dict[str, Any]] = []
        self._listened = time.perf_counter()
        self._mark()
        if self.tried.meant(context.part) not in (None, effort):
            self._write(restarts=0)  # whoever reads the journal is to know, even if nothing is left to do

    def work(self, groups: Sequence[list[int]]) -> bool:
        """Certify the samples of ``groups``, shared by all ranks; return whether all came to their end."""
        exchange = self.context.share.exchange
        source = self.context.share.source(Task(0, number) for number in range(len(groups)))
        whole = True
        while whole and (tasks := source.take(1, 0)):
            whole = self._certify(groups[tasks[0].position])
        for rank, (_, news) in enumerate(told := exchange.gather((whole, self._news))):
            for entry in news if rank != exchange.world.rank else ():
                self.log.take_in(entry, self.result)
        self._news = []
        self.pace.report(force=True)
        return all(ended for ended, _ in told)

    def _is_open(self, position: int) -> bool:
        """Return whether there is more to do for a sample."""
        return self.tried.is_open(position, self.result, self.effort)

    def _certify(self, group: list[int]) -> bool:
        """Certify a group of samples; return whether it came to its end."""
        if not any(map(self._is_open, group)):
            return True
        if self.context.out_of_time:
            return False
        load = self.context.load(group)
        found = self.certifier.bound(load.images, sent(load.labels, load.images.device))
        proved = [(position, one.method) for position, one in zip(group, found, strict=True) if one.method is not None]
        new = [position for position in group if position not in self.tried.bounded]
        certified = [pair for pair in proved if self._is_open(pair[0])]
        self._write(restarts=len(certified if self.effort.complete else new), bounded=new, certified=certified)
        for position, one in zip(group, found, strict=True):
            wanted = one.method is None and self.effort.complete and self._is_open(position)
            if wanted and (self.context.out_of_time or not self._search(position, one)):
                return False
        return True

    def _search(self, position: int, bounded: Bounded) -> bool:
        """Search a sample that bounds do not prove; return whether that came to its end, or False if time was up."""
        budget = Budget(seconds=self.effort.seconds, calls=self.effort.calls)
        load = self.context.load([position])
        found = self.certifier.search(
            bounded, budget, load.noise.at("certify"), lambda image: self._verdict(load, image) is not None, self._stops
        )
        if not found.proved and found.image is None and not budget.over and self.context.out_of_time:
            return False
        # Without a limit no other search goes further.
        spent = (budget.spent_seconds, budget.spent_calls) if budget.limited else (None, None)
        fallen = {}
        if found.image is not None and (verdict := self._verdict(load, found.image)) is not None:
            self.context.keep(self.result, np.array([position]), found.image[None])
            fallen[position] = verdict
        self._write(
            restarts=1,
            certified=[(position, "branch-and-bound")] if found.proved else [],
            fallen=fallen,
            undecided=[] if found.proved or fallen else [(position, *spent)],
        )
        return True

    def _stops(self) -> bool:
        """Return whether time is up; looks on the way whether another rank has failed."""
        if time.perf_counter() - self._listened >= _LISTEN_EVERY:
            self._listened = time.perf_counter()
            self.context.share.exchange.listen()
        return self.context.out_of_time

    @torch.no_grad()
    def _verdict(self, load: Load, image: torch.Tensor) -> tuple[int, float] | None:
        """Return class and distance of an adversarial image (C, H, W); None if it fools nobody in float32."""
        if not bool(self.context.threat.contains(image[None], load.images)):
            return None
        prediction = int(self.context.meter(image[None]).argmax(1))
        distance = float(self.context.threat.distance(image[None], load.images))
        return None if prediction == int(load.labels[0]) else (prediction, distance)

    def _write(
        self,
        *,
        restarts: int,
        certified: Sequence[tuple[int, str]] = (),
        bounded: Sequence[int] = (),
        fallen: Mapping[int, tuple[int, float]] | None = None,
        undecided: Sequence[tuple[int, float | None, int | None]] = (),
    ) -> None:
        """Write down what was found."""
        verdicts = fallen or {}
        meter = self.context.meter
        entry: dict[str, Any] = dict.fromkeys(COUNTED, 0) | {
            "stage": self.log.key,
            "done": [],
            "bounded": list(bounded),
            "certified": list(certified),
            "undecided": list(undecided),
            "effort": asdict(self.effort),
            "fallen": list(verdicts),
            "adv_pred": [prediction for prediction, _ in verdicts.values()],
            "distance": [distance for _, distance in verdicts.values()],
            "forwards": meter.forwards - self._marked[1],
            "candidates": meter.forwards - self._marked[1],
            "seconds": time.perf_counter() - self._marked[0],
            "part": self.context.part,
        }
        self._mark()
        if self.context.journal is not None:
            self.context.journal.append(entry)
        self.log.take_in(entry, self.result)
        self._news.append(entry)
        self.tried.bounded |= set(bounded)
        self.pace.add(restarts=restarts, fallen=len(verdicts), calls=entry["forwards"])
        self.pace.report()

    def _mark(self) -> None:
        self._marked = (time.perf_counter(), self.context.meter.forwards)
        self.pace.mark()
