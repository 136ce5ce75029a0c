"""Finding runs by name or folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_gkl.config.names import WeightsName, check_name
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.runs.run import Run
from robustbench_gkl.runs.writing import settled

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.models import Classifier


def look_for(name: str, *, checkpoints_dir: Path = Path("checkpoints")) -> Run:
    """Return the run called ``name``, or the one in the folder ``name``; the first if there is neither."""
    named, placed = settled(Run(checkpoints_dir / name)), settled(Run(Path(name)))
    return placed if placed.exists() and not named.exists() else named


def find_run(name: str, *, checkpoints_dir: Path = Path("checkpoints")) -> Run:
    """Return the run called ``name``, or the one in the folder ``name``.

    Raises:
        UserError: there is none (the message lists the runs there are), or its folder's name cannot be a run's.
    """
    run = look_for(name, checkpoints_dir=checkpoints_dir)
    if not run.exists():
        known = [found.name for found in runs_in(checkpoints_dir)]
        listed = ", ".join(known[:10]) + (" ..." if len(known) > 10 else "")
        raise UserError(
            f"no run {name!r} in {checkpoints_dir} (runs there: {listed or 'none'}); train or import it first"
        )
    try:
        check_name(run.name)
    except UserError as error:
        raise UserError(f"{error} in {run.folder}; rename the folder") from None
    return run


def runs_in(checkpoints_dir: Path) -> list[Run]:
    """Return the runs in a folder by name; hidden folders are none."""
    folders = (path.parent for path in sorted(checkpoints_dir.glob("*/config.json")))
    return [Run(folder) for folder in folders if not folder.name.startswith(".")]


def load_model(
    run: str | Path,
    *,
    weights: WeightsName | None = None,
    checkpoints_dir: str | Path = "checkpoints",
    device: torch.device | str = "cpu",
) -> Classifier:
    """Load a trained or imported model.

    Args:
        run: the run's name or folder.
        weights: ``best``, ``last`` or ``average``; None for the average if there is one, else best, else last.
        checkpoints_dir: where runs are kept.
        device: where to put it.

    Returns:
        The model in eval mode: images (B, C, H, W) float32 in [0, 1] in, logits (B, K) out.

    Raises:
        UserError: no such run or weights, or a broken file.
    """
    return find_run(str(run), checkpoints_dir=Path(checkpoints_dir)).load_model(weights, device=device)
