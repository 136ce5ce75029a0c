"""The clean pass of an evaluation: logits and predictions of the unattacked images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.arrays import check_range
from robustbench_gkl.evaluation.context import SampleSet
from robustbench_gkl.evaluation.meter import Meter
from robustbench_gkl.evaluation.replay import Entry, clean_predictions
from robustbench_gkl.evaluation.sharing import Share
from robustbench_gkl.results.journal import Journal


def check_samples(images: Tensor, labels: Tensor) -> None:
    """Check that images (N, C, H, W) and labels (N,) can be evaluated.

    Raises:
        UserError: another shape or dtype, or images that are not finite or leave [0, 1].
    """
    if images.dim() != 4 or len(images) == 0:
        raise UserError(f"images must have shape (N, C, H, W) with N at least 1, got {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise UserError(f"labels must be {len(images)} integers, got {labels.dtype} {tuple(labels.shape)}")
    if images.dtype != torch.uint8:
        check_range(images)


@torch.no_grad()
def clean_logits(meter: Meter, samples: SampleSet, *, batch_size: int) -> Tensor:
    """Return the logits (N, K) of the unattacked images on the CPU.

    Raises:
        UserError: logits of the wrong shape, or NaN or infinite ones; labels that the model has no class for.
    """
    chunks = torch.arange(len(samples)).split(batch_size)  # type: ignore[no-untyped-call]
    return torch.cat([_logits(meter, samples.load(rows.tolist()).images, samples.labels) for rows in chunks])


def _logits(meter: Meter, images: Tensor, labels: Tensor) -> Tensor:
    logits = meter(images)
    if logits.dim() != 2 or logits.shape[0] != images.shape[0]:
        raise UserError(f"the model must give logits (B, K), got {tuple(logits.shape)} for {len(images)} images")
    classes = logits.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(
            f"labels must lie in 0..{classes - 1}, as the model has {classes} classes; "
            f"got {int(labels.min())}..{int(labels.max())}"
        )
    usable = logits.isfinite().all(1)
    if not bool(usable.all()):
        raise UserError(
            f"the model gives NaN or infinite logits for {int((~usable).sum())} of {len(usable)} images; "
            "robustness cannot be judged: look at its weights and its normalisation"
        )
    return logits.cpu()


def agreed_predictions(
    prediction: Tensor, *, share: Share, entries: Sequence[Entry], journal: Journal | None
) -> Tensor:
    """Return the clean predictions (N,) that count: those noted first, as another machine may round another way.

    Args:
        prediction: (N,), as predicted here.
        share: the ranks that share the samples; what rank 0 predicts counts for all.
        entries: of the journal so far.
        journal: where rank 0 writes predictions that are new; None for nowhere.
    """
    exchange = share.exchange
    noted = clean_predictions(entries)
    mine = share.samples(len(prediction))
    new = [position for position in mine.nonzero()[0].tolist() if position not in noted]
    pairs = exchange.from_leader(lambda: list(zip(new, prediction[new].tolist(), strict=True)))
    if pairs and journal is not None and exchange.world.leads:
        journal.append({"clean": pairs})
    noted |= dict(pairs)
    agreed = prediction.clone()
    agreed[list(noted)] = torch.tensor(list(noted.values()), dtype=prediction.dtype)
    return agreed
