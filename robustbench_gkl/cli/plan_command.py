"""``gklbench plan``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gkl.cli import named, options, sections
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from robustbench_gkl.config.schema import TrainConfig
    from robustbench_gkl.suite import Cell, TrainCell
    from robustbench_gkl.suite.cost import LossPasses, PassTimes
    from robustbench_gkl.suite.plan import Planned
    from robustbench_gkl.suite.rates import Rates


@sections.command(examples=["gklbench plan digits --gpus 4"])
@click.argument("file", type=named.SUITE)
@sections.what("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Such as train.epochs=8 or eval.n=64.")
@sections.how("--gpus", type=click.IntRange(min=1), default=1, show_default=True, help="Devices to spread it over.")
@sections.how(
    "--calls-per-second",
    "speeds",
    multiple=True,
    metavar="[MODEL=]N",
    help="Images a second in forward passes, your own figure; may be repeated. Timed on --device if not given.",
)
@sections.how("--robust-acc", type=click.FloatRange(0, 100), metavar="PERCENT", help="Share that evaluations leave.")
@sections.output("--json", "json_path", type=options.PATH, help="Write the plan as JSON.")
@sections.output("--csv", "csv_path", type=options.PATH, help="Write the cells as CSV.")
@options.device
@options.checkpoints_dir
@options.results_dir
@options.quiet
def command(
    file: str,
    assignments: tuple[str, ...],
    gpus: int,
    speeds: tuple[str, ...],
    robust_acc: float | None,
    json_path: Path | None,
    csv_path: Path | None,
    device: str,
    checkpoints_dir: Path,
    results_dir: Path,
    quiet: bool,
) -> None:
    """Say what all cells of a suite FILE cost: model calls, hours on one device, and hours until all is done.

    A model call is the work of one forward pass of one image; a backward pass to the image costs one more, one to the
    weights two.
    """
    from robustbench_gkl.core.files import write_wanted
    from robustbench_gkl.report.terminal import make_console
    from robustbench_gkl.suite import read_suite
    from robustbench_gkl.suite.ledger import Folders
    from robustbench_gkl.suite.plan import Assumptions, plan_suite, spread
    from robustbench_gkl.suite.rates import Rates

    suite = read_suite(Path(file), assignments=assignments, checkpoints_dir=checkpoints_dir)
    console = make_console(quiet=quiet)
    rates = Rates(Folders(checkpoints_dir, results_dir))
    notes: dict[str, str] = {}
    times = _times(speeds, device, notes)
    assumed = Assumptions(
        loss_passes,
        lambda cell: times(_timed_config(cell, rates)),
        lambda cell: times(_teacher_config(cell, rates)),
        rates,
        robust_acc,
    )
    planned = plan_suite(suite, assumed)
    until = spread(planned, gpus)
    _show(planned, until, gpus, notes, console)
    total = sum(one.seconds for one in planned)
    rows = [one.row() for one in planned]
    if json_path is not None:
        plan = {"suite": suite.name, "devices": gpus, "assumptions": notes, "cells": rows}
        plan |= {"device_hours": round(total / 3600, 4), "hours": round(until / 3600, 4)}
        write_wanted(json_path, json.dumps(plan, indent=1) + "\n")
        console.print(f"wrote {json_path}", markup=False)
    if csv_path is not None:
        import pandas as pd

        from robustbench_gkl.results.export import save_table

        save_table(pd.DataFrame(rows), csv_path, form="csv")
        console.print(f"wrote {csv_path}", markup=False)


def _show(planned: Sequence[Planned], until: float, devices: int, notes: dict[str, str], console: Console) -> None:
    from rich.table import Column, Table

    right = [Column(name, justify="right") for name in ("images", "model calls", "device-hours")]
    table = Table("cell", *right, "calls from", box=None, pad_edge=False, header_style="bold")
    for one in planned:
        table.add_row(one.cell, f"{one.images:,.0f}", f"{one.calls.total:.3g}", _hours(one.seconds), one.basis)
    console.print(table)
    for name, note in notes.items():
        console.print(f"{name}: {note}", markup=False)
    total = sum(one.seconds for one in planned)
    for kind, word in (("train", "training"), ("eval", "evaluation")):
        part = sum(one.seconds for one in planned if one.kind == kind)
        console.print(f"{word}: {_hours(part)} device-hours", markup=False)
    console.print(
        f"all: {_hours(total)} device-hours; on {devices} devices done after {_hours(until)} hours, which are busy "
        f"{100 * total / max(until * devices, 1e-9):.0f} % of the time",
        markup=False,
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g}" if seconds < 360000 else f"{seconds / 3600:,.0f}"


def loss_passes(name: str) -> LossPasses:
    """Return the passes through the network that a step with the loss ``name`` makes."""
    from robustbench_gkl.losses import LOSSES
    from robustbench_gkl.suite.cost import LossPasses

    cls, _ = LOSSES.resolve(name)
    inner = cls.inner_reads if cls.crafts else ()
    outer = sum(member in cls.outer_reads for member in ("clean", "adv"))
    teacher = ("teacher_clean" in (*inner, *cls.outer_reads)) + ("teacher_adv" in cls.outer_reads)
    return LossPasses(
        crafts=cls.crafts,
        inner_clean="clean" in inner,
        outer=outer,
        teacher=teacher,
        inner_teacher="teacher_adv" in inner,
    )


def _times(speeds: Sequence[str], device_name: str, notes: dict[str, str]) -> Callable[[TrainConfig], PassTimes]:
    """Return what gives the pass times of a model: as assumed by the user, else timed here; ``notes`` says which."""
    from robustbench_gkl.suite.cost import PassTimes

    given = _speeds(speeds)

    @cache
    def timed(settings: str) -> PassTimes:
        from robustbench_gkl.config.schema import TrainConfig
        from robustbench_gkl.core.device import resolve_device
        from robustbench_gkl.training.timing import time_passes

        config, device = TrainConfig.model_validate_json(settings), resolve_device(device_name)
        try:
            took = time_passes(config, device)
        except UserError as error:
            raise UserError(
                f"the speed of {config.model} cannot be timed here; give --calls-per-second {config.model}=N ({error})"
            ) from None
        notes[config.model] = (
            f"{1 / took.forward:,.0f} forward passes/s, {1 / took.attack:,.0f} of an attack, {1 / took.update:,.0f} "
            f"updates, timed on {device} in batches of {took.batch_size}"
        )
        return PassTimes(took.forward, took.attack, took.update)

    def of(config: TrainConfig) -> PassTimes:
        speed = given.get(config.model, given.get(""))
        if speed is None:
            return timed(config.model_dump_json())
        notes[config.model] = f"{speed:,.0f} model calls/s, assumed (--calls-per-second)"
        return PassTimes.of(speed)

    return of


def _timed_config(cell: Cell, rates: Rates) -> TrainConfig:
    """Return the settings that the speed of a cell's model depends on, all others at their defaults."""
    from robustbench_gkl.config.schema import TrainConfig
    from robustbench_gkl.suite import EvalCell, TrainCell

    trained = cell.config if isinstance(cell, TrainCell) else cell.train.config if cell.train is not None else None
    if trained is not None:
        keys = {"model", "dataset", "mean", "std", "batch_size", "precision"}
        return TrainConfig.model_validate(trained.model_dump(include=keys))
    assert isinstance(cell, EvalCell)
    arch = rates.arch(cell)
    if arch is None:
        raise UserError(
            f"the architecture of {cell.run} is not known, so its speed cannot be; leave it out of the plan"
        )
    return TrainConfig(model=arch, dataset=cell.config.dataset)


def _teacher_config(cell: TrainCell, rates: Rates) -> TrainConfig:
    """Return the same of a training's teacher, which sees the same batches."""
    from robustbench_gkl.config.schema import TrainConfig

    arch = rates.teacher_arch(cell)
    if arch is None:
        raise UserError(f"the architecture of the teacher {cell.config.teacher} of {cell.run} is not known")
    return TrainConfig.model_validate(
        cell.config.model_dump(include={"dataset", "batch_size", "precision"}) | {"model": arch}
    )


def _speeds(texts: Sequence[str]) -> dict[str, float]:
    """Return calls per second by model; the one for all others is under ""."""
    speeds = {}
    for text in texts:
        model, _, number = text.rpartition("=")
        try:
            speeds[model] = float(number)
        except ValueError:
            speeds[model] = 0.0
        if not 0 < speeds[model] < float("inf"):
            raise UserError(f"--calls-per-second needs a number above 0 or MODEL=NUMBER, got {text!r}")
    return speeds
