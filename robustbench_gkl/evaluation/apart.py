"""The drivers of a stage in processes of their own, and what these ask and tell the one that keeps the account.

Threads of one interpreter wait for each other between the calls of a network, which takes as long as these where it is
small. Processes do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from robustbench_gkl.attacks.model import Model, is_layers_alone
from robustbench_gkl.attacks.search.driver import Driver, Source, Task
from robustbench_gkl.attacks.search.tasks import Referee
from robustbench_gkl.core.forked import Link, can_fork, run_forked
from robustbench_gkl.evaluation.candidates import Judgement, judge
from robustbench_gkl.evaluation.context import Context

_FEWEST = 8
"""Samples in the batch of a process; with fewer it is faster to share a batch."""
_ASK_EVERY = 0.05
"""Seconds between two looks of a driver that has tasks, but fewer than it has room for: each waits for an answer."""
_TELL_EVERY = 0.1
"""Seconds between two reports of a driver that has nothing to say."""


class _Take(NamedTuple):
    """Asks for tasks; see :meth:`Source.take`."""

    free: int
    held: int


class _Settle(NamedTuple):
    """See :meth:`Source.settle`."""

    done: Sequence[Task]
    gone: Sequence[Task]


class _Report(NamedTuple):
    """What a driver has done since its last report: see :class:`Referee`, :class:`Driver` and :class:`Meter`."""

    judgements: Sequence[Judgement]
    done: Sequence[Task]
    fallen: Sequence[Task]
    forwards: int
    backwards: int
    nonfinite: int
    progress: float


class Away:
    """A driver in another process, as far as it has told of itself; see :class:`Driver`."""

    def __init__(self) -> None:
        self.nonfinite, self.progress = 0, 0.0
        self.doubtful: dict[int, int] = {}


class Account(Referee, Protocol):
    """Where drivers in other processes have what they do written down."""

    def take_in(self, judgement: Judgement) -> None:
        """Note what became of some candidates, until their restarts are over."""
        ...


def processes_for(model: Model, device: torch.device, samples: int) -> int:
    """Return how many processes are to share ``samples`` that fit into one batch; 1 where all stay in this one.

    One for each of torch's threads, as a child has no more than one of them. Of a ``model`` that consists of known
    layers alone it does not matter where it is called: it keeps nothing, draws no numbers and waits for no thread.
    """
    threads = torch.get_num_threads()
    count = min(threads, samples // _FEWEST)
    divided = device.type == "cpu" and count > 1 and threads // count == 1
    return count if divided and is_layers_alone(model) and can_fork() else 1


def run_apart(
    build: Callable[[Referee], Driver], away: Sequence[Away], source: Source, context: Context, account: Account
) -> bool | None:
    """Do the tasks of ``source`` with a driver in a process of its own for each of ``away``.

    Args:
        build: makes a driver whose runs a referee judges; called in its process.
        away: take in what the drivers say of themselves.
        source: of the tasks.
        context: the evaluation.
        account: where results are written down, in this process.

    Returns:
        Whether all are done; None where the system makes no more processes.

    Raises:
        ChildProcessError: a process was killed.
        Exception: what a driver raised.
    """

    def work(link: Link) -> tuple[bool, dict[int, int]]:
        reporter = _Reporter(link, context)
        reporter.driver = driver = build(reporter)
        whole = driver.run(_DistantSource(link))
        reporter.tell()
        return whole, driver.doubtful

    def serve(number: int, message: _Take | _Settle | _Report) -> tuple[list[Task], bool] | None:
        if isinstance(message, _Take):
            return source.take(message.free, message.held), source.exhausted
        if isinstance(message, _Settle):
            source.settle(message.done, message.gone)
            return None
        away[number].nonfinite, away[number].progress = message.nonfinite, message.progress
        context.meter.add(message.forwards, message.backwards)
        for judgement in message.judgements:
            account.take_in(judgement)
        if message.done or message.fallen:
            account.over(message.done, message.fallen, None)
        return None

    ends = run_forked([work] * len(away), serve=serve, idle=account.should_stop, every=_TELL_EVERY)
    if ends is None:
        return None
    for driver, (_, doubtful) in zip(away, ends, strict=True):
        driver.doubtful = doubtful
    return all(whole for whole, _ in ends)


class _DistantSource:
    """The tasks that the parent keeps."""

    def __init__(self, link: Link) -> None:
        self._link, self.exhausted = link, False
        self._ask_again = 0.0

    def take(self, free: int, held: int) -> list[Task]:
        now = time.perf_counter()
        if held and now < self._ask_again:
            return []
        tasks: list[Task]
        tasks, self.exhausted = self._link.ask(_Take(free, held))
        if len(tasks) < free:
            self._ask_again = now + _ASK_EVERY
        return tasks

    def settle(self, done: Sequence[Task], gone: Sequence[Task]) -> None:
        self._link.tell(_Settle(done, gone))
        self._ask_again = 0.0


class _Reporter:
    """Judges the candidates of a driver, and reports to the parent, which keeps the journal."""

    def __init__(self, link: Link, context: Context) -> None:
        self._link, self._context = link, context
        self._judgements: list[Judgement] = []
        meter = context.meter
        self._told, self._calls = time.perf_counter(), (meter.forwards, meter.backwards)
        self.driver: Driver | None = None

    def confirm(self, tasks: Sequence[Task], points: Tensor) -> np.ndarray:
        judgement = judge(self._context, tasks, points)
        self._judgements.append(judgement)
        return judgement.broken

    def over(self, done: Sequence[Task], fallen: Sequence[Task], left: Tensor | None) -> None:
        self.tell(done, fallen)

    def should_stop(self) -> bool:
        if time.perf_counter() - self._told >= _TELL_EVERY:
            self.tell()
        return self._context.out_of_time

    def tell(self, done: Sequence[Task] = (), fallen: Sequence[Task] = ()) -> None:
        """Report what was done since the last report, and that ``done`` and ``fallen`` are over."""
        assert self.driver is not None
        meter, (forwards, backwards) = self._context.meter, self._calls
        self._told, self._calls = time.perf_counter(), (meter.forwards, meter.backwards)
        since = (meter.forwards - forwards, meter.backwards - backwards)
        self._link.tell(_Report(self._judgements, done, fallen, *since, self.driver.nonfinite, self.driver.progress))
        self._judgements = []
