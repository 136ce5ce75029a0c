"""Where evaluations run, where their results go, and the callbacks that report on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from robustbench_gkl.evaluation.progress import Progress, ignore
from robustbench_gkl.ranks.exchange import Exchange
from robustbench_gkl.results.record import Check
from robustbench_gkl.results.store import ResultStore


@dataclass(frozen=True)
class Workspace:
    """What all evaluations of one call share.

    Attributes:
        store: the results folder; ranks on several machines must share it.
        device: where to run.
        data_dir: where downloaded data sets are kept.
        exchange: the ranks that share the samples, each of which makes the same calls. Rank 0 makes the checks, holds
            the locks and writes the record.
        on_progress: called a few times a second, on rank 0.
        on_checks: called on rank 0 with what was found before the attacks; whatever it is, they are run.
        on_note: called on rank 0 with a line on what was decided on the way.
        on_wait: called on rank 0 with a line, at once and then once a minute, while another process evaluates the same.
    """

    store: ResultStore
    device: torch.device
    data_dir: Path = Path("data")
    exchange: Exchange = field(default_factory=Exchange)
    on_progress: Callable[[Progress], None] | None = None
    on_checks: Callable[[Sequence[Check]], None] | None = None
    on_wait: Callable[[str], None] = ignore
    on_note: Callable[[str], None] = ignore

    @contextmanager
    def holding(self, record_id: str, *, shared: bool = False, part: str | None = None) -> Iterator[None]:
        """Hold the lock of an evaluation's journal in the block, after waiting for those who hold it.

        Args:
            record_id: of the record that it will become.
            shared: beside other shards of the evaluation.
            part: the part that this process writes, which no other may write at the same time.
        """
        with ExitStack() as held:

            def take() -> None:
                held.enter_context(self.store.locked(record_id, shared=shared, wait=self.on_wait))
                if part is not None:
                    held.enter_context(self.store.locked(record_id, part=part, wait=self.on_wait))

            self.exchange.from_leader(take)
            yield
            self.exchange.end()  # the lock goes when all ranks have put their parts away
