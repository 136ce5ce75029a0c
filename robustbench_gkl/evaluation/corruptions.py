"""Accuracy on corrupted images."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.config.names import WeightsName
from robustbench_gkl.core.device import full_precision
from robustbench_gkl.core.environment import environment
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import to_unit
from robustbench_gkl.data.corruptions import SEVERITIES, CorruptionFolder
from robustbench_gkl.results.corruptions import CorruptionData, CorruptionRecord, Counts, corruption_id
from robustbench_gkl.results.record import ModelInfo, model_sha256
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.runs import Run, now, weights_sha256

OnProgress = Callable[[str, int, int], None]
"""Called with the corruption under way, the severities done and all there are."""


@torch.no_grad()
def count_correct(
    model: nn.Module,
    folder: CorruptionFolder,
    *,
    n: int,
    batch_size: int = 250,
    device: torch.device,
    on_progress: OnProgress | None = None,
) -> dict[str, Counts]:
    """Return, for each corruption, how many of the first ``n`` images are classified correctly at severities 1 to 5.

    Args:
        model: images (B, C, H, W) float32 in [0, 1] to logits (B, K); put in eval mode for the time of the call.
        folder: the images.
        n: images of each corruption and severity.
        batch_size: images at a time.
        device: where the model is.
        on_progress: called after each severity.
    """
    total = SEVERITIES * len(folder.names)
    found: dict[str, Counts] = {}
    with attack_mode(model), full_precision():
        for name in folder.names:
            counts = []
            for severity in range(1, SEVERITIES + 1):
                right = torch.zeros((), dtype=torch.int64, device=device)
                for images, labels in folder.batches(name, severity, n=n, batch_size=batch_size):
                    right += (model(to_unit(images.to(device))).argmax(1) == labels.to(device)).sum()
                counts.append(int(right))
                if on_progress is not None:
                    on_progress(name, SEVERITIES * len(found) + severity, total)
            found[name] = (counts[0], counts[1], counts[2], counts[3], counts[4])
    return found


def evaluate_corruptions(
    run: Run,
    folder: CorruptionFolder,
    store: ResultStore,
    *,
    n: int | None = None,
    weights: WeightsName | None = None,
    batch_size: int = 250,
    device: torch.device,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> tuple[CorruptionRecord, bool]:
    """Evaluate a run on corrupted images and write its record.

    Args:
        run: the model.
        folder: the images.
        store: where records are kept.
        n: the first so many images of each corruption and severity; None for all.
        weights: which of the run's weights; None for the preferred ones.
        batch_size: images at a time.
        device: where to run.
        overwrite: measure again even if the record exists.
        on_progress: called after each severity.

    Returns:
        The record, and whether it was there already.

    Raises:
        UserError: the run or the folder cannot be used, or they do not fit each other.
    """
    folder.check()
    if n is not None and not 1 <= n <= folder.per_severity:
        raise UserError(f"--n must lie in 1..{folder.per_severity}, the images of each severity; got {n}")
    n = n or folder.per_severity
    which = run.choose(weights)
    config, model = run.load_whole(which, device=device)
    if folder.shape != model.input_shape or folder.most_labels > model.num_classes:
        takes, holds = "x".join(map(str, model.input_shape)), "x".join(map(str, folder.shape))
        raise UserError(
            f"run {run.name} takes {takes} images of {model.num_classes} classes, but {folder.path} holds {holds} "
            f"images with labels up to {folder.most_labels - 1}"
        )
    store.corruptions.prepare()
    digest, data = weights_sha256(model), folder.sha256(n)
    identity = corruption_id(name=run.name, weights_sha256=digest, data_sha256=data)
    existing = store.corruptions.load(identity)
    if existing is not None and not overwrite:
        return existing, True
    started = time.perf_counter()
    correct = count_correct(model, folder, n=n, batch_size=batch_size, device=device, on_progress=on_progress)
    record = CorruptionRecord(
        id=identity,
        created=now(),
        model=ModelInfo(
            name=run.name,
            arch=config.arch,
            loss=config.train.loss if config.train is not None else None,
            params=sum(parameter.numel() for parameter in model.parameters()),
            weights=which,
            weights_sha256=digest,
            model_sha256=model_sha256(weights_sha256=digest, arch=config.arch),
            train_config=config.train.model_dump(mode="json") if config.train is not None else None,
        ),
        data=CorruptionData(dataset=_name(folder.path), sha256=data, n=n),
        correct=correct,
        batch_size=batch_size,
        seconds=round(time.perf_counter() - started, 3),
        environment=environment(device),
    )
    store.corruptions.save(record)
    return record, False


def _name(path: Path) -> str:
    return path.resolve().name
