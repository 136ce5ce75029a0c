"""What the commands that make evaluations share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.evaluation import Progress
    from robustbench_gkl.evaluation.workspace import Workspace
    from robustbench_gkl.ranks.exchange import Exchange
    from robustbench_gkl.report.live import LiveProgress
    from robustbench_gkl.results import ResultStore
    from robustbench_gkl.results.record import Check


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

    return Workspace(
        store,
        device,
        data_dir,
        exchange,
        on_progress=lambda event: progress.update(
            event.stage, event.done, event.total, note=_note(event), seconds_left=event.seconds_left
        ),
        on_checks=lambda checks: _warn(checks, progress),
        on_wait=progress.line,
        on_note=progress.line,
    )


def _note(event: Progress) -> str:
    """Return what is known so far: the fallen, the bound and the pace."""
    parts = [f"{event.fallen} fallen, {event.standing} standing"]
    parts.append(f"robust accuracy at most {100 * event.standing / event.n:.2f} %")
    if event.calls_per_second:
        parts.append(f"{event.calls_per_second:,.0f} model calls/s")
    return ", ".join(parts)


def _warn(checks: Sequence[Check], progress: LiveProgress) -> None:
    """Say before the long work which checks fail."""
    for check in checks:
        if check.verdict == "FAIL":
            progress.line(f"FAIL {check.name}, so never ranked: {check.figure}. {check.advice}")
