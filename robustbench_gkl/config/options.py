"""Evaluation settings from and to the options of ``gklbench eval``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from robustbench_gkl.config.schema import EvalConfig, ModelOptions, ThreatConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import Norm, format_fraction, parse_fraction, parse_norm
from robustbench_gkl.core.validation import validated


@dataclass(frozen=True)
class Native:
    """What a model was made for; None where it is not known.

    Attributes:
        dataset: the data set.
        threat: the threat model.
    """

    dataset: str | None = None
    threat: ThreatConfig | None = None


Usual = Callable[[str], tuple[Norm, str] | None]
"""From a data set's name to the norm and the radius that its models are usually compared at."""


def evaluation_config(
    native: Native, *, asked: Mapping[str, Any], threat: Mapping[str, Any], usual: Usual, what: str
) -> EvalConfig:
    """Return what to measure: what was asked for, else what the model was made for, else what is usual.

    Args:
        native: what the model was made for.
        asked: keys of :class:`EvalConfig` but for the threat.
        threat: keys of its threat.
        usual: gives the usual threat of a data set.
        what: names the command in messages.

    Raises:
        UserError: a value that cannot be; no data set or no radius, neither given nor known.
    """
    values = {"dataset": native.dataset, **asked}
    if values["dataset"] is None:
        raise UserError(f"{what}: the model does not tell its data set; give --dataset, such as --dataset cifar10")
    if "none" not in values.get("attacks", ()):
        values["threat"] = _threat(str(values["dataset"]), native, threat, usual, grid="eps_grid" in values, what=what)
    return validated(EvalConfig, values, what=what)


def _threat(
    dataset: str, native: Native, asked: Mapping[str, Any], usual: Usual, *, grid: bool, what: str
) -> dict[str, Any]:
    """Return norm and eps; the known ones stand in for one that was not given where the norm is theirs."""
    found = usual(dataset)
    known = native.threat or (None if found is None else ThreatConfig(norm=found[0], eps=parse_fraction(found[1])))
    if "norm" not in asked and "eps" not in asked and not grid and known is None:
        raise UserError(f"{what}: no usual threat is known for {dataset}; give --norm and --eps, such as --eps 8/255")
    norm = parse_norm(asked["norm"]) if "norm" in asked else "linf" if known is None else known.norm
    if "eps" in asked:
        return {"norm": norm, "eps": asked["eps"]}
    if grid:
        return {"norm": norm, "eps": 0}
    if known is None or known.norm != norm:
        raise UserError(
            f"{what}: no radius is known for {norm} on {dataset}; give --eps in the [0, 1] image scale, such as "
            "--eps 8/255"
        )
    return {"norm": norm, "eps": known.eps}


def usual_note(config: EvalConfig, native: Native, *, threat: Mapping[str, Any]) -> str:
    """Return the words for a threat that was neither asked for nor the model's own; nothing for another.

    Args:
        config: what :func:`evaluation_config` returned.
        native: what the model was made for.
        threat: keys of the threat that were asked for.
    """
    own = "eps" in threat or native.threat is not None or config.eps_grid is not None or "none" in config.attacks
    return "" if own else f" (the usual threat of {config.dataset}; --norm and --eps choose another)"


def parse_grid(text: str) -> tuple[Fraction, ...]:
    """Return the radii that ``0,1/255,2/255`` lists, rising.

    Raises:
        UserError: a radius that is no number, one given twice, or none above 0.
    """
    radii = [parse_fraction(part.strip(), what="a radius of --eps-grid") for part in text.split(",")]
    if len(set(radii)) < len(radii):
        raise UserError(f"--eps-grid gives a radius twice: {text}")
    if max(radii) == 0:
        raise UserError("--eps-grid needs a radius above 0; accuracy at 0 is the clean accuracy")
    return tuple(sorted(radii))


def eval_options(
    config: EvalConfig, *, weights: str | None = None, name: str | None = None, options: ModelOptions | None = None
) -> list[list[str]]:
    """Return the options of ``gklbench eval`` that ask for ``config``, in groups of words that belong on one line.

    Args:
        config: what is measured.
        weights: which of a run's weights; None for the preferred ones.
        name: the model's name on the board; None for its own.
        options: what is done to images in front of a model from outside.
    """
    model = [] if name is None else ["--name", name]
    for key, value in ({} if options is None else options.given()).items():
        model += [f"--{key}", ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    data = ["--dataset", config.dataset, *(["--split", config.split] if config.split != "test" else [])]
    data += [] if config.n is None else ["--n", str(config.n)]
    radius = ["--norm", config.threat.norm]
    if config.eps_grid is None:
        radius += ["--eps", format_fraction(config.threat.eps)]
    else:
        radius += ["--eps-grid", ",".join(map(format_fraction, config.eps_grid))]
    how = ["--seed", str(config.seed), "--batch-size", str(config.batch_size)]
    how += ["--engine", config.engine] if config.engine != "native" else []
    how += ["--weights", weights] if weights is not None else []
    how += ["--search-precision", config.search_precision] if config.search_precision != "float32" else []
    how += ["--compile"] if config.compiled else []
    attacks = [["--attack", spec] for spec in config.attacks]
    return [*([model] if model else []), data, *([] if "none" in config.attacks else [radius]), *attacks, how]
