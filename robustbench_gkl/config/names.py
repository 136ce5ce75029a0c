"""Names of runs and of their weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError

WeightsName = Literal["best", "last", "average"]
WEIGHTS: tuple[WeightsName, ...] = ("average", "best", "last")
"""In the order in which they are preferred where nothing is asked for."""


def run_name(config: TrainConfig, *varied: str) -> str:
    """Return the name of a run that was given none: the recipe or loss, model and data set, what varies, the seed.

    It is always a legal one: ``trades-timm-resnet18-cifar10-seed0`` for ``timm:resnet18``. What is too long for a name
    is cut short and told apart by a hash.
    """
    base = config.recipe or f"{config.loss}-{config.model}-{word(config.dataset)}"
    rest = "".join(f"-{part}" for part in (*varied, f"seed{config.seed}"))
    legal = _spelled(base).lstrip(".-") or "run"
    if len(legal) + len(rest) > _LONGEST_NAME:
        digest = hashlib.sha256(base.encode()).hexdigest()[:8]
        legal = f"{legal[: max(0, _LONGEST_NAME - len(rest) - 9)]}-{digest}".lstrip("-")
    return check_name(legal + rest)


def word(value: object) -> str:
    """Return ``value`` as it can stand in a run's name: ``8-255`` for ``8/255``, the stem of a file's path."""
    text = "-".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if ":" in text or Path(text).suffix in (".npz", ".toml", ".json"):
        text = Path(text).stem
    return _spelled(text)


def _spelled(text: str) -> str:
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
