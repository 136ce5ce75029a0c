"""What evaluation and training report, on the displays that commands and Python share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_gkl.report.live import LiveProgress
from robustbench_gkl.report.training_display import TrainingDisplay

if TYPE_CHECKING:
    from robustbench_gkl.evaluation import Progress
    from robustbench_gkl.results.record import Check
    from robustbench_gkl.training import Event, StartReport


def show_evaluation(event: Progress, display: LiveProgress) -> None:
    """Show where an evaluation stands."""
    display.update(event.stage, event.done, event.total, note=_note(event), seconds_left=event.seconds_left)


def _note(event: Progress) -> str:
    """Return what is known so far: the fallen, the bound and the pace."""
    parts = [f"{event.fallen} fallen, {event.standing} standing"]
    parts.append(f"robust accuracy at most {100 * event.standing / event.n:.2f} %")
    if event.calls_per_second:
        parts.append(f"{event.calls_per_second:,.0f} model calls/s")
    return ", ".join(parts)


def show_failed(checks: Sequence[Check], display: LiveProgress) -> None:
    """Say before the long work which checks fail."""
    for check in checks:
        if check.verdict == "FAIL":
            display.line(f"FAIL {check.name}, so never ranked: {check.figure}. {check.advice}")


def show_training(event: Event, display: TrainingDisplay, *, name: str) -> None:
    """Show what the training of the run ``name`` reports: where it begins, steps, and epochs."""
    from robustbench_gkl.training import StartReport, StepReport

    if isinstance(event, StartReport):
        for line in _start(event, name):
            display.line(line)
    elif isinstance(event, StepReport):
        display.step(
            epoch=event.epoch,
            epochs=event.epochs,
            step=event.step,
            steps=event.steps,
            seconds_left=event.seconds_left,
            means=event.means,
        )
    else:
        display.epoch(event.row, epochs=event.epochs, seconds_left=event.seconds_left, warning=event.warning)


def _start(event: StartReport, name: str) -> list[str]:
    """Return what is told before the first step."""
    if event.epoch >= event.epochs:
        return [f"run {name} is finished: all {event.epochs} epochs are done; nothing was trained"]
    if not (event.epoch or event.step):
        return [*event.notes]
    inside = f", step {event.step + 1} of {event.steps}" if 0 < event.step < event.steps else ""
    inside = ", all of whose steps are taken" if event.step == event.steps else inside
    return [*event.notes, f"going on with epoch {event.epoch + 1} of {event.epochs}{inside}"]
