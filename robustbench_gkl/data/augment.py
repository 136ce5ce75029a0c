"""Random crops and flips of whole batches, on the device where the images are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_gkl.noise import Noise
from robustbench_gkl.registry import Registry

Augmentation = Callable[[Tensor, Noise], Tensor]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", "robustbench_gkl.data")


def augment(images: Tensor, *, name: str, noise: Noise) -> Tensor:
    """Return a random view of each image, a function of the image and of its sample's random numbers alone.

    Args:
        images: (B, C, H, W), uint8 or float32; not changed.
        name: a registered augmentation: ``none``, ``crop`` or ``crop-flip``.
        noise: the B samples' random numbers; give each epoch its own path, or all epochs see the same views.

    Returns:
        (B, C, H, W) of the same type, on the device of ``images``.

    Raises:
        UserError: unknown name.
        ValueError: ``noise`` is for another number of samples.
    """
    function, _ = AUGMENTATIONS.resolve(name)
    if noise.index.shape != images.shape[:1]:
        raise ValueError(f"noise for {len(noise.index)} samples cannot augment {len(images)} images")
    return function(images, replace(noise, index=noise.index.to(images.device)))


def padding(side: int) -> int:
    """Return how far a crop may shift an image of this many pixels a side: an eighth, so 4 for 32."""
    return max(1, side // 8)


@AUGMENTATIONS.register("none")
def none(images: Tensor, noise: Noise) -> Tensor:
    """The images as they are."""
    return images


@AUGMENTATIONS.register("crop")
def crop(images: Tensor, noise: Noise) -> Tensor:
    """Zero-pad by an eighth of the side and crop back at random."""
    return _view(images, noise, torch.zeros(len(images), dtype=torch.bool, device=images.device))


@AUGMENTATIONS.register("crop-flip")
def crop_flip(images: Tensor, noise: Noise) -> Tensor:
    """Crop as in ``crop``, then mirror left to right with probability 1/2."""
    return _view(images, noise, noise.at("flip").integers(2).bool())


def _view(images: Tensor, noise: Noise, flip: Tensor) -> Tensor:
    """Crop each image at its own offset and mirror where ``flip`` (B,) says so, in one gather."""
    batch, channels, height, width = images.shape
    down, right = padding(height), padding(width)
    padded = F.pad(images, (right, right, down, down))
    top = noise.at("crop", "top").integers(2 * down + 1)
    left = noise.at("crop", "left").integers(2 * right + 1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    view = padded.flatten(2).gather(2, places.reshape(batch, 1, -1).expand(-1, channels, -1))
    return view.reshape(images.shape)
