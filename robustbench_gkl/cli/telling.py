"""What ``gklbench train`` says of its settings, and of its run as it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustbench_gkl.config.changes import differences
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.report.terminal import settings_lines

if TYPE_CHECKING:
    from robustbench_gkl.report.training_display import TrainingDisplay
    from robustbench_gkl.training import Event
    from robustbench_gkl.training.metrics import Logger


def changed_settings(config: TrainConfig, base: dict[str, Any], recipe: str | None, *, verbose: bool) -> list[str]:
    """Return lines on what the user changed of the settings ``base``, the recipe's if there is one; else on all."""
    ours = config.model_dump(mode="json")
    if verbose:
        return [f"  {line}" for line in settings_lines(ours)]
    try:
        theirs = TrainConfig.model_validate(base).model_dump(mode="json")
    except ValueError:  # settings that are whole only together with the user's
        theirs = TrainConfig().model_dump(mode="json") | base
    changed = [f"  {key}: {_shown(then)} -> {_shown(now)}" for key, then, now in differences(theirs, ours)]
    if recipe is None and base:
        return ["settings: those that it was started with (-v shows all)"]
    how = f"with {len(changed)} changes" if len(changed) > 1 else "with one change" if changed else "as it is"
    return [f"settings: {recipe or 'the defaults'} {how} (-v shows all)", *changed]


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def show(event: Event, display: TrainingDisplay, logger: Logger | None, *, name: str) -> None:
    """Show an event of training, and log the row of an epoch."""
    from robustbench_gkl.training import StartReport, StepReport

    if isinstance(event, StartReport):
        if event.epoch >= event.epochs:
            display.line(f"run {name} is finished: all {event.epochs} epochs are done; nothing was trained")
            return
        for note in event.notes:
            display.line(note)
        if event.epoch or event.step:
            inside = f", step {event.step + 1} of {event.steps}" if 0 < event.step < event.steps else ""
            inside = ", all of whose steps are taken" if event.step == event.steps else inside
            display.line(f"going on with epoch {event.epoch + 1} of {event.epochs}{inside}")
        return
    if isinstance(event, StepReport):
        display.step(
            epoch=event.epoch,
            epochs=event.epochs,
            step=event.step,
            steps=event.steps,
            seconds_left=event.seconds_left,
            means=event.means,
        )
        return
    display.epoch(event.row, epochs=event.epochs, seconds_left=event.seconds_left, warning=event.warning)
    if logger is not None:
        logger.log(event.row)
