"""Options that several commands share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def _folder(flag: str, default: str, text: str) -> Callable[[F], F]:
    return click.option(flag, type=PATH, default=Path(default), show_default=True, help=text)


checkpoints_dir = _folder("--checkpoints-dir", "checkpoints", "Where runs are kept.")
results_dir = _folder("--results-dir", "results", "Where records and verdicts are kept.")
data_dir = _folder("--data-dir", "data", "Where downloaded data sets are kept.")
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:i.")


def _hush(ctx: click.Context, parameter: click.Parameter, quiet: bool) -> bool:
    if quiet:
        logging.getLogger("robustbench_gkl").setLevel(logging.ERROR)
    return quiet


quiet = click.option("--quiet", "-q", is_flag=True, callback=_hush, help="Print nothing but errors.")
norm = click.option("--norm", help="linf, l2 or l1.")
eps = click.option("--eps", help="Radius in the [0, 1] image scale, such as 8/255.")
seed = click.option("--seed", type=click.IntRange(min=0), help="Of all random numbers.")


strict = click.option("--strict", is_flag=True, help="Refuse broken records instead of passing them by.")


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave: those that are not None."""
    return {key: value for key, value in options.items() if value is not None}
