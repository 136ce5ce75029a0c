"""Evaluation settings from and to the options of ``gklbench eval``."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from robustbench_gkl.config.schema import EvalConfig, TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.exact import format_fraction, parse_fraction
from robustbench_gkl.core.validation import validated


def evaluation_defaults(dataset: str, trained: TrainConfig | None) -> dict[str, Any]:
    """Return the evaluation keys that a run decides: its data set, and the threat it was trained for."""
    values: dict[str, Any] = {"dataset": dataset, "threat": {}}
    if trained is not None:
        values["threat"] = trained.threat.model_dump(mode="json")
    return values


def evaluation_config(
    dataset: str, trained: TrainConfig | None, *, asked: Mapping[str, Any], threat: Mapping[str, Any], what: str
) -> EvalConfig:
    """Return what a command measures on a run: what was asked for, and the run's own where nothing was.

    Args:
        dataset: the run's.
        trained: the settings that the run was trained with; None for an imported one.
        asked: keys of :class:`EvalConfig` that win over the run's.
        threat: keys of its threat that win over the run's.
        what: names the command in messages.

    Raises:
        UserError: a value that cannot be.
    """
    values = evaluation_defaults(dataset, trained)
    return validated(EvalConfig, {**values, **asked, "threat": {**values["threat"], **threat}}, what=what)


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


def eval_options(config: EvalConfig, *, weights: str | None = None) -> list[list[str]]:
    """Return the options of ``gklbench eval`` that ask for ``config``, in groups of words that belong on one line."""
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
    return [data, *([] if "none" in config.attacks else [radius]), *attacks, how]
