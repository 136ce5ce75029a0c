"""``gklbench train``."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.cli.starting import starting
from robustbench_gkl.cli.stopping import stop_on_signals
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_gkl.config.schema import TrainConfig
    from robustbench_gkl.runs import Run
    from robustbench_gkl.training.metrics import Logger


@sections.command(
    examples=[
        "gklbench train digits-gkl --name gkl",
        "gklbench train digits-gkl --name short --epochs 5 --set attack.steps=5",
        "gklbench train --name gkl --resume",
    ]
)
@click.argument("recipe", required=False, type=named.RECIPE)
@sections.what("--loss", type=named.LOSS, help="See gklbench list losses.")
@sections.what("--model", type=named.ARCHITECTURE, help="See gklbench list models.")
@sections.what(
    "--teacher",
    type=named.MODEL,
    metavar="MODEL",
    help="What a distilling loss learns from: a run or another MODEL of eval.",
)
@sections.what(
    "--init",
    type=named.MODEL,
    metavar="MODEL",
    help="Start from the weights of this run or MODEL of the same architecture.",
)
@sections.what("--dataset", type=named.DATASET, help="See gklbench list datasets.")
@options.norm
@options.eps
@sections.budget("--epochs", type=int, help="Passes over the training images.")
@sections.budget("--batch-size", type=int, help="Training images a step.")
@sections.how("--lr", type=float, help="Peak learning rate.")
@options.seed
@sections.output(
    "--name",
    type=named.RUN,
    help="The run's name; made from loss, model, dataset and seed if not given.",
)
@sections.what("--synthetic", multiple=True, metavar="FILE", help="Generated images to mix in: .npz; may be repeated.")
@sections.what("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any key, such as attack.steps=5.")
@sections.what("--resume", is_flag=True, help="Go on with the run of this name from its saved state.")
@sections.output("--overwrite", is_flag=True, help="Replace the run of this name once the new one has begun.")
@sections.budget("--save-every", type=float, default=300.0, show_default=True, help="Seconds between saved states.")
@sections.how("--compile", "compiled", is_flag=True, help="Compile the networks; needs a C++ compiler on the CPU.")
@sections.how("--deterministic", is_flag=True, help="Use CUDA kernels that repeat bit for bit; slower.")
@sections.output("--logger", type=click.Choice(["tensorboard"]), help="Log the metrics there too.")
@sections.output(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the settings (.toml, .json); train nothing.",
)
@options.device
@options.data_dir
@options.checkpoints_dir
@options.verbose
@options.quiet
def command(
    recipe: str | None,
    loss: str | None,
    model: str | None,
    teacher: str | None,
    init: str | None,
    dataset: str | None,
    norm: str | None,
    eps: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    name: str | None,
    synthetic: tuple[str, ...],
    assignments: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    save_every: float,
    compiled: bool,
    deterministic: bool,
    logger: str | None,
    export: Path | None,
    device: str,
    data_dir: Path,
    checkpoints_dir: Path,
    verbose: bool,
    quiet: bool,
) -> None:
    """Train a model.

    RECIPE is a name from `gklbench list recipes` or a .toml or .json file; options and --set win over it.
    """
    from robustbench_gkl.cli.telling import changed_settings, show
    from robustbench_gkl.config.names import check_name, run_name
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.report.training_display import TrainingDisplay
    from robustbench_gkl.runs import Run

    if resume and overwrite:
        raise UserError("give --resume or --overwrite, not both")
    asked = options.given(
        loss=loss,
        model=model,
        teacher=teacher,
        init=init,
        dataset=dataset,
        norm=norm,
        eps=eps,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
    )
    changes = _changes(assignments, synthetic, asked)
    started = Run(checkpoints_dir / name) if resume and name is not None else None
    with starting():
        base = _base(recipe, started, anew=bool(changes))
        config = _configuration(base, changes)
        name = run_name(config) if name is None else check_name(name)
        run = Run(checkpoints_dir / name)
        if export is None:
            _find_models(config, checkpoints_dir, begins=not (resume and run.exists()))
        idle = _idle(config, base, changes)
        from robustbench_gkl.ranks.collectives import joined, rank_device, world_from_environment
        from robustbench_gkl.training import Interrupted, train

    world = world_from_environment()
    console = make_console(quiet=quiet or not world.leads)
    if idle is not None:
        console.print(f"warning: {idle}", style="yellow", markup=False)
    if export is not None:
        _export(config, export)
        console.print(f"wrote {export}", markup=False)
        return
    elsewhere = (
        "" if checkpoints_dir == Path("checkpoints") else f" --checkpoints-dir {shlex.quote(str(checkpoints_dir))}"
    )
    on = rank_device(device, world)
    console.print(f"run {name} on {on}{f', {world.size} ranks' if world.size > 1 else ''}", markup=False)
    for line in changed_settings(config, base, recipe, verbose=verbose):
        console.print(line, markup=False)
    try:
        with (
            joined(world, on),
            stop_on_signals(second_at_once=world.size == 1) as should_stop,
            TrainingDisplay(console) as display,
            _logger(logger if world.leads else None, run) as log,
        ):
            train(
                config,
                run,
                device=on,
                data_dir=data_dir,
                resume=resume,
                overwrite=overwrite,
                save_every=save_every,
                compiled=compiled,
                deterministic=deterministic,
                world=world,
                on_event=lambda event: show(event, display, log, name=name),
                should_stop=should_stop,
            )
    except Interrupted:
        again = f"gklbench train --name {name}{elsewhere} --resume"
        raise KeyboardInterrupt(f"interrupted; {again} goes on from here") from None
    console.print(f"weights in {run.folder}: {', '.join(run.available())}", markup=False)
    console.print(f"evaluate them with: gklbench eval {name}{elsewhere}", markup=False)


def _export(config: TrainConfig, path: Path) -> None:
    """Write the resolved configuration so that ``gklbench train FILE`` trains it again."""
    from robustbench_gkl.config.files import to_toml
    from robustbench_gkl.core.files import write_wanted

    if path.suffix == ".toml":
        text = to_toml(config.model_dump(mode="json"))
    elif path.suffix == ".json":
        text = config.model_dump_json(indent=1) + "\n"
    else:
        raise UserError(f"--export needs a name that ends in .toml or .json, got {path}")
    write_wanted(path, text)


def _logger(name: str | None, run: Run) -> AbstractContextManager[Logger | None]:
    from robustbench_gkl.training.metrics import TensorBoard

    return nullcontext() if name is None else TensorBoard(run.folder / "tensorboard")


def _base(recipe: str | None, started: Run | None, *, anew: bool) -> dict[str, Any]:
    """Return the keys to begin with: the recipe's, or those of the run that is to go on.

    Args:
        recipe: its name or file.
        started: the run that is to go on.
        anew: whether there are other settings, from which a run that has not begun can begin.
    """
    from robustbench_gkl.config.recipes import read_recipe
    from robustbench_gkl.runs import settled

    if started is not None and settled(started).exists():
        settled(started).load_plugins(exact=True)
    if recipe is not None:
        return {"recipe": Path(recipe).stem} | read_recipe(recipe)
    if started is None:
        return {}
    if not settled(started).exists():
        if anew:
            return {}
        raise UserError(f"there is no run {started.name} in {started.folder.parent} to resume; give its recipe too")
    trained = started.config().train
    if trained is None:
        raise UserError(f"run {started.name} was imported and cannot be resumed")
    return trained.model_dump(mode="json")


def _changes(assignments: tuple[str, ...], synthetic: tuple[str, ...], asked: dict[str, object]) -> dict[str, object]:
    """Return the settings that the user gave: --synthetic, then --set, then options."""
    from robustbench_gkl.config.changes import read_assignment

    changes: dict[str, object] = {"synthetic.files": list(synthetic)} if synthetic else {}
    return changes | dict(map(read_assignment, assignments)) | asked


def _configuration(base: dict[str, Any], changes: dict[str, object]) -> TrainConfig:
    """Return the settings that the user's ``changes`` make of ``base``; names that there are none of are refused.

    Raises:
        UserError: settings that are wrong.
    """
    from robustbench_gkl.config.changes import with_changes
    from robustbench_gkl.config.schema import TrainConfig
    from robustbench_gkl.core.validation import validated

    config = validated(TrainConfig, with_changes(base, changes), what="configuration")
    options.refuse_unknown(loss=config.loss, model=config.model, dataset=config.dataset)
    return config


def _find_models(config: TrainConfig, checkpoints_dir: Path, *, begins: bool) -> None:
    """Look for the teacher and, where the run ``begins``, for its initial weights, without loading them.

    Raises:
        UserError: one is not there.
    """
    from robustbench_gkl.config.schema import ModelOptions
    from robustbench_gkl.sources.source import find_source

    for model in (config.teacher, config.init if begins else None):
        if model is not None:
            find_source(model, checkpoints_dir=checkpoints_dir, options=ModelOptions())


def _idle(config: TrainConfig, base: dict[str, Any], changes: dict[str, object]) -> str | None:
    """Return a line on the keys of ``base`` that are idle, or None if all have an effect.

    Raises:
        UserError: settings that are without an effect though the user gave them.
    """
    from robustbench_gkl.config.changes import given_keys
    from robustbench_gkl.config.idle import check_teacher, idle_of_recipe, refuse_idle
    from robustbench_gkl.losses import LOSSES

    loss, given = LOSSES.resolve(config.loss)[0], given_keys(changes)
    check_teacher(config, taught=loss.taught)
    refuse_idle(config, given, crafts=loss.crafts)
    return idle_of_recipe(config, base, given, crafts=loss.crafts)
