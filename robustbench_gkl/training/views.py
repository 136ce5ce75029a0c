"""What a step sees of its images: augmented views, mixed by CutMix, and the labels that go with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.device import sent
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.data import to_unit
from robustbench_gkl.data.augment import augment
from robustbench_gkl.losses import Logits, Loss
from robustbench_gkl.training.batches import Batch

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Views:
    """The images of one step and how losses apply to them.

    Where several processes share a batch, each has the images of its own b of the B samples, and the labels of all:
    the training attack sees the former, the outer loss the logits of the whole batch.

    Attributes:
        images: (V b, C, H, W) float32 in [0, 1], channels last: one view of each sample after the other.
        labels: (B,) int64.
        count: V, 1 or 2.
        second_weight: weight of the second view's robust terms.
        other: (B,) labels of the images that CutMix pasted in; None without.
        share: how much of each image is its own.
        rows: which of the B samples the images show.
    """

    images: Tensor
    labels: Tensor
    count: int = 1
    second_weight: float = 1.0
    other: Tensor | None = None
    share: float = 1.0
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def main_label(self) -> Tensor:
        """(B,): the label of what most of each image shows."""
        return self.labels if self.other is None or self.share >= 0.5 else self.other

    def first(self, logits: Tensor) -> Tensor:
        """Return the rows of ``logits`` (V B, K) that belong to the first views."""
        return logits[: len(self.labels)]

    def inner(self, loss: Loss, logits: Logits) -> Tensor:
        """Return (V b,): what the training attack maximises, for logits (V b, K)."""
        return self._mixed(lambda labels: loss.inner(logits, labels[self.rows].repeat(self.count)))

    def terms(self, loss: Loss, logits: Logits) -> Terms:
        """Return the scalar terms of the outer loss, for the logits (V B, K) of the whole batch.

        Of two views a term of kind ``clean`` is the mean, and one of kind ``robust`` is the first view's plus
        ``second_weight`` times the second view's. CutMix mixes the terms as it mixes the images.

        Raises:
            UserError: a term whose kind the loss does not declare.
        """
        if self.other is None:
            return self._over_views(loss, logits, self.labels)
        own, pasted = (self._over_views(loss, logits, labels) for labels in (self.labels, self.other))
        return {name: self.share * own[name] + (1 - self.share) * pasted[name] for name in own}

    def _over_views(self, loss: Loss, logits: Logits, labels: Tensor) -> Terms:
        size = len(self.labels)

        def view(number: int) -> Terms:
            rows = slice(number * size, (number + 1) * size)
            return loss.terms(logits.map(lambda values: values[rows]), labels)

        first = view(0)
        if undeclared := first.keys() - loss.kinds.keys():
            raise UserError(
                f"the loss {type(loss).__name__} declares no kind of its term {min(undeclared)}; put it into the "
                f"class's kinds as 'clean' or 'robust'"
            )
        if self.count == 1:
            return first
        second = view(1)
        return {
            name: (value + second[name]) / 2
            if loss.kinds[name] == "clean"
            else value + self.second_weight * second[name]
            for name, value in first.items()
        }

    def _mixed(self, value: Callable[[Tensor], Tensor]) -> Tensor:
        if self.other is None:
            return value(self.labels)
        return self.share * value(self.labels) + (1 - self.share) * value(self.other)


def make_views(batch: Batch, config: TrainConfig, *, epoch: int, step: int, rows: slice = slice(None)) -> Views:
    """Return the views of the samples ``rows`` of a batch, a function of (seed, epoch, step) and of its samples."""
    shown = slice(None) if config.cutmix else rows  # CutMix pastes from anywhere in the batch
    noise, pixels = Noise(config.seed, batch.samples[shown]).at("train", epoch), batch.images[shown]
    views = [augment(pixels, name=config.augment, noise=noise.at("augment"))]
    if config.second_view.augment is not None:
        views.append(augment(pixels, name=config.second_view.augment, noise=noise.at("second view")))
    images = to_unit(torch.cat(views) if len(views) > 1 else views[0])
    images = images.contiguous(memory_format=torch.channels_last)
    made = Views(images, batch.labels, count=len(views), second_weight=config.second_view.robust_weight, rows=shown)
    if not config.cutmix:
        return made
    mixed = cut_mix(made, seed=config.seed, place=(epoch, step), chance=config.cutmix)
    return replace(mixed, images=mixed.images[rows], rows=rows)


def cut_mix(views: Views, *, seed: int, place: tuple[int, int], chance: float) -> Views:
    """Paste a box from another image of the batch into each image (CutMix, Yun et al., arXiv 1905.04899).

    One box for the whole batch, of a uniformly drawn share of the area and around a uniformly drawn centre, cut off
    at the border; the pixels inside decide the share of the labels.

    Args:
        views: a single view of each image.
        seed, place: what the random numbers are a function of.
        chance: probability that the batch is mixed at all.
    """
    one = Noise(seed, torch.zeros(1, dtype=torch.int64)).at("cutmix", *place)
    mixed, area, row, column = one.uniform(4)[0].tolist()
    if mixed >= chance:
        return views
    height, width = views.images.shape[2:]
    reach = math.sqrt(area) / 2
    top, bottom = (min(height, max(0, round(height * (row + way * reach)))) for way in (-1, 1))
    left, right = (min(width, max(0, round(width * (column + way * reach)))) for way in (-1, 1))
    keys = Noise(seed, torch.arange(len(views.labels))).at("cutmix", "partner", *place).bits()
    partner = sent(keys.argsort(), views.labels.device)
    images = views.images.clone(memory_format=torch.preserve_format)
    images[:, :, top:bottom, left:right] = views.images[partner, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return Views(images, views.labels, other=views.labels[partner], share=share)
