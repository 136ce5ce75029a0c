"""Options that several commands share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from robustbench_gkl.cli import named, sections
from robustbench_gkl.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_gkl.config.names import WeightsName
    from robustbench_gkl.sources.source import ModelSource

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def _folder(flag: str, default: str, text: str) -> Callable[[F], F]:
    return sections.where(flag, type=PATH, default=Path(default), show_default=True, help=text)


checkpoints_dir = _folder("--checkpoints-dir", "checkpoints", "Where runs are kept.")
results_dir = _folder("--results-dir", "results", "Where records and verdicts are kept.")
data_dir = _folder("--data-dir", "data", "Where downloaded data sets are kept.")
device = sections.where(
    "--device", type=named.DEVICE, default="auto", show_default=True, help="auto, cpu, cuda or cuda:i."
)


def _hush(ctx: click.Context, parameter: click.Parameter, quiet: bool) -> bool:
    if quiet:
        logging.getLogger("robustbench_gkl").setLevel(logging.ERROR)
    return quiet


quiet = sections.common("--quiet", "-q", is_flag=True, callback=_hush, help="Print nothing but errors.")
verbose = sections.common("--verbose", "-v", is_flag=True, help="Show all settings.")
norm = sections.threat("--norm", help="linf, l2 or l1.")
eps = sections.threat("--eps", help="Radius in the [0, 1] image scale, such as 8/255.")
seed = sections.how("--seed", type=click.IntRange(min=0), help="Of all random numbers.")


strict = sections.how("--strict", is_flag=True, help="Refuse broken records instead of passing them by.")


def _count_or_all(ctx: click.Context, parameter: click.Parameter, text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"--save-adversarial must be a number of images or all, got {text!r}")
    return int(text)


save_adversarial = sections.output(
    "--save-adversarial",
    callback=_count_or_all,
    default="0",
    metavar="N|all",
    help="Keep N adversarial images for reports, or all: the file is one for --attack images:FILE.",
)


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--{parameter.name} must be numbers with commas between, such as 0.5,0.5,0.5, got {text!r}"
        ) from None


_WEIGHTS = click.Choice(["best", "last", "average"])
_MODEL = (
    click.argument("model", type=named.MODEL),
    sections.model("--weights", type=_WEIGHTS, help="Which of a run's weights."),
    sections.model("--mean", callback=_numbers, help="Normalisation in front of a model that is no run: 0.5,0.5,0.5."),
    sections.model("--std", callback=_numbers, help="Likewise."),
    sections.model("--resize", type=click.IntRange(min=1), help="Pixels that an image's shorter side is brought to."),
    sections.model("--crop", type=click.IntRange(min=1), help="Pixels of the square that is then cut from the centre."),
)


@dataclass(frozen=True)
class ModelArgument:
    """A MODEL argument with the options that belong to it."""

    model: str
    weights: WeightsName | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize: int | None
    crop: int | None

    def source(self, checkpoints_dir: Path, *, dataset: str | None = None, norm: str | None = None) -> ModelSource:
        """Return the model; ``dataset`` and ``norm`` are those that were asked for.

        Raises:
            UserError: no such model, or options that do not belong to its kind.
        """
        from robustbench_gkl.config.schema import ModelOptions
        from robustbench_gkl.core.validation import validated
        from robustbench_gkl.sources.source import find_source

        values = given(mean=self.mean, std=self.std, resize=self.resize, crop=self.crop)
        options = validated(ModelOptions, values, what="model")
        return find_source(
            self.model,
            checkpoints_dir=checkpoints_dir,
            weights=self.weights,
            options=options,
            dataset=dataset,
            norm=norm,
        )


def model_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command MODEL and its options, which it gets as one ``model: ModelArgument``."""

    @functools.wraps(command)
    def called(**values: Any) -> Any:
        own = {field.name: values.pop(field.name) for field in fields(ModelArgument)}
        return command(model=ModelArgument(**own), **values)

    for decorate in reversed(_MODEL):
        called = decorate(called)
    return called


_REGISTRIES = {"loss": "losses.LOSSES", "model": "models.MODELS", "dataset": "data.DATASETS"}


def refuse_unknown(**names: str) -> None:
    """Refuse a ``loss``, ``model`` or ``dataset`` that there is none of, before torch is imported if that tells.

    Raises:
        UserError: nothing of that name.
    """
    from robustbench_gkl.core import declared

    for kind, name in names.items():
        room, _, registry = _REGISTRIES[kind].partition(".")
        declared.refuse_unknown(kind, name, package=f"robustbench_gkl.{room}", registry=registry)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave: those that are not None."""
    return {key: value for key, value in options.items() if value is not None}
