"""Training from Python: recipes, runs and devices by name, shown as it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from robustbench_gkl.config.changes import given_keys, with_changes
from robustbench_gkl.config.idle import check_teacher, refuse_idle
from robustbench_gkl.config.names import check_name
from robustbench_gkl.config.recipes import read_recipe
from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.device import resolve_device
from robustbench_gkl.core.validation import validated
from robustbench_gkl.losses import LOSSES
from robustbench_gkl.python.showing import console_for
from robustbench_gkl.ranks.collectives import ALONE, World
from robustbench_gkl.report.events import show_training
from robustbench_gkl.report.training_display import TrainingDisplay
from robustbench_gkl.runs import Run
from robustbench_gkl.training import Event, loop
from robustbench_gkl.training.events import Observer


class Training(list[dict[str, float]]):
    """The rows of ``metrics.csv`` of a training, one an epoch.

    Attributes:
        run: the run's folder; ``run.load_model()`` returns the trained model.
    """

    def __init__(self, rows: Iterable[dict[str, float]], run: Run) -> None:
        super().__init__(rows)
        self.run = run

    def __repr__(self) -> str:
        last = self[-1] if self else {}
        part, images = ("val", "validation") if "val_clean_acc" in last else ("train", "training")
        shown = [f"{kind} {last[key]:.2f}" for kind in ("clean", "robust") if (key := f"{part}_{kind}_acc") in last]
        told = f": on {images} images {', '.join(shown)}" if shown else ""
        return f"Training({self.run.name}, {len(self)} epochs{told})"


def train(
    config: TrainConfig | Mapping[str, Any] | str | Path,
    run: Run | str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    device: torch.device | str = "auto",
    data_dir: str | Path = "data",
    checkpoints_dir: str | Path = "checkpoints",
    resume: bool = False,
    overwrite: bool = False,
    save_every: float = 300.0,
    compiled: bool = False,
    deterministic: bool = False,
    world: World = ALONE,
    progress: bool | None = None,
    on_event: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Training:
    """Train a model into the folder of a run.

    The processes of a ``world`` of several call this together, each on its own device, and share every batch; see
    :func:`robustbench_gkl.training.train`.

    Args:
        config: a recipe's name or file (``"digits-gkl"``), its keys, or resolved settings.
        run: its name, which becomes a folder in ``checkpoints_dir``, or its folder. It must not exist, unless
            ``resume`` or ``overwrite`` is given, and appears with its first saved state.
        changes: keys of the recipe with other values, dotted or short: ``{"epochs": 5, "attack.steps": 3}``.
        device: where to train; ``auto`` for CUDA where there is a device.
        data_dir: where downloaded data sets are kept.
        checkpoints_dir: where runs are kept.
        resume: go on from the saved state of this run; begins anew if there is none.
        overwrite: replace the run that is there; it stays as it is until the new one has saved its first state.
        save_every: seconds between states saved in mid-epoch; one is saved after each epoch anyway.
        compiled: compile the networks with torch.compile, which changes results in the last digits.
        deterministic: use CUDA kernels that repeat bit for bit, so that a resumed run is exact there too.
        world: the processes that train together, inside :func:`robustbench_gkl.ranks.collectives.joined`.
        progress: show epochs as they end; None for in notebooks and on terminals alone.
        on_event: called before the first step, and after each step and each epoch.
        should_stop: called after each step; True on any rank saves the state and raises
            :class:`robustbench_gkl.training.Interrupted` on all.

    Returns:
        The rows of ``metrics.csv``: accuracies in percent, ``seconds`` of the run so far.

    Raises:
        UserError: the run exists, is being written by another process, or was started with another configuration or
            other data; unknown names; settings that are wrong or, in ``changes``, without an effect; a teacher or
            initial weights that do not fit; broken data; a run that diverges.
        Interrupted: ``should_stop`` returned True.
    """
    settings, place = _settings(config, changes or {}), _place(run, Path(checkpoints_dir))
    with TrainingDisplay(console_for(progress if world.leads else False)) as display:

        def tell(event: Event) -> None:
            show_training(event, display, name=place.name)
            if on_event is not None:
                on_event(event)

        rows = loop.train(
            settings,
            place,
            device=resolve_device(device) if isinstance(device, str) else device,
            data_dir=Path(data_dir),
            resume=resume,
            overwrite=overwrite,
            save_every=save_every,
            compiled=compiled,
            deterministic=deterministic,
            world=world,
            on_event=tell,
            should_stop=should_stop,
        )
    return Training(rows, place)


def _place(run: Run | str | Path, checkpoints_dir: Path) -> Run:
    """Return the folder of a run that is named, or given as a folder."""
    if isinstance(run, Run):
        return run
    named = isinstance(run, str) and os.sep not in run
    return Run(checkpoints_dir / check_name(str(run)) if named else Path(run))


def _settings(config: TrainConfig | Mapping[str, Any] | str | Path, changes: Mapping[str, Any]) -> TrainConfig:
    """Return the resolved settings.

    Raises:
        UserError: no such recipe; settings that are wrong, or without an effect though they were given as changes.
    """
    if isinstance(config, TrainConfig):
        base = config.model_dump(mode="json")
    elif isinstance(config, Mapping):
        base = dict(config)
    else:
        base = {"recipe": Path(config).stem} | read_recipe(str(config))
    settings = validated(TrainConfig, with_changes(base, changes), what="configuration")
    loss = LOSSES.resolve(settings.loss)[0]
    check_teacher(settings, taught=loss.taught)
    refuse_idle(settings, given_keys(changes), crafts=loss.crafts)
    return settings
