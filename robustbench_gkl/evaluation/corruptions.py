"""Accuracy on corrupted images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.config.names import check_name
from robustbench_gkl.core.device import full_precision
from robustbench_gkl.core.environment import environment
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.data import ImageSet, to_unit
from robustbench_gkl.data.corruptions import SEVERITIES, CorruptionFolder
from robustbench_gkl.data.facts import Split
from robustbench_gkl.data.resized import fit_of
from robustbench_gkl.data.resizing import UNCHANGED
from robustbench_gkl.results.corruptions import CorruptionData, CorruptionRecord, Counts, corruption_id
from robustbench_gkl.results.store import ResultStore
from robustbench_gkl.runs import now
from robustbench_gkl.sources.source import ModelSource

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
    source: ModelSource,
    folder: CorruptionFolder,
    store: ResultStore,
    *,
    n: int | None = None,
    name: str | None = None,
    batch_size: int = 250,
    device: torch.device,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> tuple[CorruptionRecord, bool]:
    """Evaluate a model on corrupted images and write its record.

    Args:
        source: the model.
        folder: the images.
        store: where records are kept.
        n: the first so many images of each corruption and severity; None for all.
        name: the model's name in the record; None for the source's.
        batch_size: images at a time.
        device: where to run.
        overwrite: measure again even if the record exists.
        on_progress: called after each severity.

    Returns:
        The record, and whether it was there already.

    Raises:
        UserError: the model or the folder cannot be used, or they do not fit each other.
    """
    folder.check()
    if n is not None and not 1 <= n <= folder.per_severity:
        raise UserError(f"--n must lie in 1..{folder.per_severity}, the images of each severity; got {n}")
    n = n or folder.per_severity
    shown = _Images(folder)
    if fit_of(source.fitted(shown)) != UNCHANGED:
        raise UserError(
            f"{source.label}: corrupted images are evaluated in the size that they have, {_size(folder.shape)}; leave "
            "out --resize and --crop, and choose a model for that size"
        )
    subject = source.load(shown, device=device)
    model, named = subject.model, check_name(source.name if name is None else name)
    if folder.shape != model.input_shape or folder.most_labels > model.num_classes:
        raise UserError(
            f"{source.label} takes {_size(model.input_shape)} images of {model.num_classes} classes, but {folder.path} "
            f"holds {_size(folder.shape)} images with labels up to {folder.most_labels - 1}"
        )
    store.corruptions.prepare()
    data = folder.sha256(n)
    known_by = subject.weights_sha256 if subject.source is None else subject.model_sha256
    identity = corruption_id(name=named, model_sha256=known_by, data_sha256=data)
    existing = store.corruptions.load(identity)
    if existing is not None and not overwrite:
        return existing, True
    started = time.perf_counter()
    correct = count_correct(model, folder, n=n, batch_size=batch_size, device=device, on_progress=on_progress)
    record = CorruptionRecord(
        id=identity,
        created=now(),
        model=subject.info(named),
        data=CorruptionData(dataset=_name(folder.path), sha256=data, n=n),
        correct=correct,
        batch_size=batch_size,
        seconds=round(time.perf_counter() - started, 3),
        environment=environment(device),
    )
    store.corruptions.save(record)
    return record, False


@dataclass(frozen=True)
class _Images:
    """Corrupted images as a data set, of which shape and classes are looked at."""

    folder: CorruptionFolder

    @property
    def shape(self) -> Shape:
        """(channels, height, width)."""
        return self.folder.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels as names."""
        return tuple(map(str, range(self.folder.most_labels)))

    def load(self, split: Split) -> ImageSet:
        """Return nothing: corrupted images are read in batches."""
        raise NotImplementedError


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _name(path: Path) -> str:
    return path.resolve().name
