"""What the commands that make evaluations share."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.config.schema import EvalConfig
    from robustbench_gkl.evaluation.effort import Effort
    from robustbench_gkl.evaluation.recorded import Recorded
    from robustbench_gkl.evaluation.workspace import Workspace
    from robustbench_gkl.ranks.exchange import Exchange
    from robustbench_gkl.report.live import LiveProgress
    from robustbench_gkl.results import ResultStore
    from robustbench_gkl.sources.source import ModelSource


@contextmanager
def resumable() -> Iterator[None]:
    """Say of an interruption in the block that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from here") from None


def seconds_of(flag: str, text: str, *, examples: str = "90s, 30m or 2h") -> float:
    """Return the seconds that ``90``, ``90s``, ``30m`` or ``2h`` mean.

    Raises:
        UserError: another spelling, or no time above 0.
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise UserError(f"{flag} must be a time above 0 such as {examples}, got {text!r}")
    return seconds


def workspace_of(
    store: ResultStore, device: torch.device, data_dir: Path, exchange: Exchange, progress: LiveProgress
) -> Workspace:
    """Return a workspace that reports to ``progress``."""
    from robustbench_gkl.evaluation.workspace import Workspace
    from robustbench_gkl.report.events import show_evaluation, show_failed

    return Workspace(
        store,
        device,
        data_dir,
        exchange,
        on_progress=lambda event: show_evaluation(event, progress),
        on_checks=lambda checks: show_failed(checks, progress),
        on_wait=progress.line,
        on_note=progress.line,
    )


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, in one of three ways."""

    config: EvalConfig
    source: ModelSource
    workspace: Workspace
    name: str | None
    overwrite: bool
    effort: Effort | None
    """How far samples are certified; None for not at all."""

    def whole(self, time_limit: float | None, save_adversarial: int | Literal["all"]) -> Recorded:
        """Evaluate all samples."""
        from robustbench_gkl.evaluation.recorded import evaluate_and_record

        return evaluate_and_record(
            self.config,
            self.source,
            self.workspace,
            name=self.name,
            overwrite=self.overwrite,
            time_limit=time_limit,
            save_adversarial=save_adversarial,
            effort=self.effort,
        )

    def at_all_radii(self) -> list[Recorded]:
        """Evaluate all samples at the radii of ``--eps-grid``."""
        from robustbench_gkl.evaluation.recorded import evaluate_grid

        return evaluate_grid(self.config, self.source, self.workspace, name=self.name, overwrite=self.overwrite)

    def shard(self, text: str, time_limit: float | None, progress: LiveProgress) -> list[Recorded]:
        """Evaluate a shard, and say how to go on; return the record of the whole if there is one already."""
        from robustbench_gkl.evaluation.shards import ShardOutcome, evaluate_shard
        from robustbench_gkl.evaluation.sharing import Shard

        shard = Shard.parse(text)
        outcome = evaluate_shard(
            self.config,
            self.source,
            self.workspace,
            shard,
            name=self.name,
            overwrite=self.overwrite,
            time_limit=time_limit,
            effort=self.effort,
        )
        if not isinstance(outcome, ShardOutcome):
            return [outcome]
        progress.line(f"shard {shard}: {outcome.standing} of {outcome.n} samples stand")
        if outcome.partial:
            progress.line("stopped by --time-limit; the same command goes on")
        else:
            join = shlex.join(
                ["gklbench", "merge", outcome.record_id, "--results-dir", str(self.workspace.store.folder)]
            )
            progress.line(f"when all shards are done: {join}")
        return []
