"""What commands and suites make of recipes, options and ``key=value`` assignments: configurations and names."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from robustbench_gkl.config import EvalConfig, TrainConfig, put_key
from robustbench_gkl.errors import UserError
from robustbench_gkl.exact import format_fraction, parse_fraction

WeightsName = Literal["best", "last", "average"]
WEIGHTS: tuple[WeightsName, ...] = ("average", "best", "last")
"""In the order in which they are preferred where nothing is asked for."""

SHORT_KEYS = {"norm": "threat.norm", "eps": "threat.eps", "lr": "optimizer.lr"}
"""Keys that have an option of their own, and where they belong."""


def with_changes(values: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """Return training keys with ``changes`` (dotted or short key to value) laid over them.

    Another loss leaves the options of the one before behind.

    Raises:
        UserError: a key that leads through something that is no table.
    """
    changed = _copy(values)
    if changes.get("loss", values.get("loss")) != values.get("loss"):
        changed.pop("loss_options", None)
    for key, value in changes.items():
        put_key(changed, SHORT_KEYS.get(key, key), value)
    return changed


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def evaluation_defaults(dataset: str, trained: TrainConfig | None) -> dict[str, Any]:
    """Return the evaluation keys that a run decides: its data set, and the threat it was trained for."""
    values: dict[str, Any] = {"dataset": dataset, "threat": {}}
    if trained is not None:
        values["threat"] = trained.threat.model_dump(mode="json")
    return values


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


def run_name(config: TrainConfig, *varied: str) -> str:
    """Return the name of a run that was given none: the recipe or loss, model and data set, what varies, the seed."""
    base = config.recipe or f"{config.loss}-{config.model}-{word(config.dataset)}"
    return check_name("-".join([base, *varied, f"seed{config.seed}"]))


def word(value: object) -> str:
    """Return ``value`` as it can stand in a run's name: ``8-255`` for ``8/255``, the stem of a file's path."""
    text = "-".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if ":" in text or Path(text).suffix in (".npz", ".toml", ".json"):
        text = Path(text).stem
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)


_LONGEST_NAME = 200
"""Letters of a name that leave room for what a record's files have beside it."""


def check_name(name: str) -> str:
    """Return ``name`` if it can name a run's folder.

    Raises:
        UserError: it cannot.
    """
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"a run's name must be at most {_LONGEST_NAME} characters long, got {len(name)}: {name[:20]}..."
        )
    if not name or name[0] in ".-" or not all(letter.isalnum() or letter in "._-" for letter in name):
        raise UserError(
            f"a run's name must be letters, digits, '.', '_' or '-' and not begin with '.' or '-', got {name!r}"
        )
    return name
