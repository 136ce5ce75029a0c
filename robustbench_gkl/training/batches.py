"""Batches of training images: which ones, and how they get to the device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_gkl.core.device import sent
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise, permutation
from robustbench_gkl.data import ImageSet
from robustbench_gkl.data.synthetic import SyntheticImages

RESIDENT_BYTES = 2 << 30
"""Image sets up to this size are kept on the device as a whole."""


@dataclass(frozen=True)
class Batch:
    """One step's samples.

    Attributes:
        samples: (B,) int64 on the CPU, which sample each is: those trained on in order, then the generated ones.
        images: (B, C, H, W) uint8 on the device.
        labels: (B,) int64 on the device.
    """

    samples: Tensor
    images: Tensor
    labels: Tensor


class Batches:
    """The batches of a run. Which samples are in one is a function of (seed, epoch, step) alone.

    Without generated images an epoch is one pass in random order, and an incomplete last batch is left out. With
    them each batch holds its share of generated images, drawn with replacement, and real ones in random order; an
    epoch then has as many images as there are real ones, so that it shows only a part of these.

    Args:
        real: the images of the data set.
        rows: (n,) int64, the positions of those that are trained on, which are not copied; None for all.
        batch_size: images a step; no more than there are.
        seed: of the order.
        device: where batches are wanted.
        synthetic: the generated images, if any.
        fraction: their share of each batch, rounded down to whole images.
    """

    def __init__(
        self,
        real: ImageSet,
        *,
        rows: Tensor | None = None,
        batch_size: int,
        seed: int,
        device: torch.device,
        synthetic: SyntheticImages | None = None,
        fraction: float = 0.0,
    ) -> None:
        self._rows = torch.arange(len(real)) if rows is None else rows
        self.batch_size = min(batch_size, len(self._rows))
        self._seed, self._device, self._synthetic = seed, device, synthetic
        self._generated = int(self.batch_size * fraction) if synthetic is not None else 0
        if synthetic is not None and self._generated == 0:
            raise UserError(
                f"a batch of {self.batch_size} has no generated image at synthetic.fraction {fraction:g}; enlarge one"
            )
        self.steps = -(-len(self._rows) // self.batch_size) if self._generated else len(self._rows) // self.batch_size
        small = real.images.nbytes <= RESIDENT_BYTES
        self._resident = small and self._generated == 0
        self._images = real.images.to(device) if self._resident else real.images
        self._labels = real.labels.to(device) if self._resident else real.labels

    def check_shared(self, ranks: int) -> None:
        """Check that each of so many processes gets its share of a batch.

        Raises:
            UserError: some get less than two images.
        """
        if self.batch_size < 2 * ranks:
            raise UserError(
                f"a batch of {self.batch_size} images gives some of {ranks} ranks less than the two that each needs; "
                f"start fewer, or set a larger batch_size"
            )

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from step ``first`` on.

        Those of a set that is not resident on the device are put together one ahead in a second thread, and
        copied without waiting for the device.
        """
        order = permutation(self._seed, "order", epoch, n=len(self._rows))
        if self._resident:
            places = sent(self._rows[order], self._device)
            for step in range(first, self.steps):
                rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
                yield Batch(order[rows], self._images[places[rows]], self._labels[places[rows]])
            return
        with ThreadPoolExecutor(1) as worker:
            ahead = worker.submit(self._gather, order, epoch, first)
            for step in range(first, self.steps):
                batch = ahead.result()
                if step + 1 < self.steps:
                    ahead = worker.submit(self._gather, order, epoch, step + 1)
                yield Batch(batch.samples, self._sent(batch.images), self._sent(batch.labels))

    def _gather(self, order: Tensor, epoch: int, step: int) -> Batch:
        """Return the batch on the CPU, in pinned memory if it goes to CUDA."""
        count = self.batch_size - self._generated
        rows = order[torch.arange(step * count, (step + 1) * count) % len(order)]
        images, labels, samples = self._images[self._rows[rows]], self._labels[self._rows[rows]], rows
        if self._synthetic is not None:
            noise = Noise(self._seed, torch.arange(self._generated)).at("synthetic", epoch, step)
            drawn = noise.integers(len(self._synthetic))
            more_images, more_labels = self._synthetic.take(drawn)
            images, labels = torch.cat([images, more_images]), torch.cat([labels, more_labels])
            samples = torch.cat([rows, len(order) + drawn])
        if self._device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return Batch(samples, images, labels)

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)
