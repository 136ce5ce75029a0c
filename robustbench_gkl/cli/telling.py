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
    from robustbench_gkl.report.events import show_training
    from robustbench_gkl.training import EpochReport

    show_training(event, display, name=name)
    if logger is not None and isinstance(event, EpochReport):
        logger.log(event.row)
