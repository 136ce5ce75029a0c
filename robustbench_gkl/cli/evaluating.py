"""What the commands that make evaluations share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.evaluation.workspace import Workspace
    from robustbench_gkl.ranks.exchange import Exchange
    from robustbench_gkl.report.live import LiveProgress
    from robustbench_gkl.results import ResultStore


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
