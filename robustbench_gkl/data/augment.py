"""Random views of whole batches, made on the device where the images are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_gkl.core.device import sent
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.registry import Registry

Augmentation = Callable[[Tensor, Noise], Tensor]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", "robustbench_gkl.data")


def augment(images: Tensor, *, name: str, noise: Noise) -> Tensor:
    """Return a random view of each image, a function of the image and of its sample's random numbers alone.

    Args:
        images: (B, C, H, W), uint8 or float32; not changed.
        name: a registered augmentation, such as ``none``, ``crop`` or ``crop-flip``.
        noise: the B samples' random numbers; give each epoch its own path, or all epochs see the same views. Where it
            is on the CPU and the images are not, the few numbers drawn are moved.

    Returns:
        (B, C, H, W) of the same type, on the device of ``images``.

    Raises:
        UserError: unknown name.
        ValueError: ``noise`` is for another number of samples.
    """
    function, _ = AUGMENTATIONS.resolve(name)
    if noise.index.shape != images.shape[:1]:
        raise ValueError(f"noise for {len(noise.index)} samples cannot augment {len(images)} images")
    return function(images, noise)


def padding(side: int) -> int:
    """Return how far a crop may shift an image of this many pixels a side: an eighth, so 4 for 32."""
    return max(1, side // 8)


@AUGMENTATIONS.register("none")
def none(images: Tensor, noise: Noise) -> Tensor:
    """Return the images (B, C, H, W) as they are."""
    return images


@AUGMENTATIONS.register("crop")
def crop(images: Tensor, noise: Noise) -> Tensor:
    """Zero-pad images (B, C, H, W) by an eighth of the side and crop back at random."""
    return _view(images, noise, torch.zeros(len(images), dtype=torch.bool))


@AUGMENTATIONS.register("crop-flip")
def crop_flip(images: Tensor, noise: Noise) -> Tensor:
    """Crop images (B, C, H, W) as in ``crop``, then mirror them left to right with probability 1/2."""
    return _view(images, noise, noise.at("flip").integers(2).bool())


@AUGMENTATIONS.register("crop-flip-cutout")
def crop_flip_cutout(images: Tensor, noise: Noise) -> Tensor:
    """Crop and flip images (B, C, H, W), then blank a square of half the side around a random pixel (Cutout).

    DeVries and Taylor, arXiv 1708.04552.
    """
    height, width = images.shape[2:]
    kept = (
        _outside(noise.at("cutout", "row"), height)[:, :, None] | _outside(noise.at("cutout", "column"), width)[:, None]
    )
    return crop_flip(images, noise) * _beside(kept, images)[:, None]


@AUGMENTATIONS.register("resized-crop-flip")
def resized_crop_flip(images: Tensor, noise: Noise) -> Tensor:
    """Enlarge a random region of each image (B, C, H, W) to the image's size, then mirror as in ``crop-flip``.

    The region covers 8 to 100 % of the image at a ratio of width to height from 3/4 to 4/3 (Szegedy et al., arXiv
    1409.4842), drawn as torchvision's ``RandomResizedCrop`` draws it; pixels are interpolated linearly.
    """
    height, width = images.shape[2:]
    top, left, tall, wide = _regions(noise.at("region"), height, width)
    columns = _places(left, wide, width)
    mirrored = noise.at("flip").integers(2).bool()[:, None]
    columns = torch.where(mirrored, columns.flip(1), columns)
    view = _sampled(images.to(torch.float32), 2, _beside(_places(top, tall, height), images))
    view = _sampled(view, 3, _beside(columns, images))
    return view.round_().to(torch.uint8) if images.dtype == torch.uint8 else view.to(images.dtype)


def _regions(noise: Noise, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (B, 1) tops, lefts, heights and widths of random regions.

    Of ten draws of height and width the first that fits counts; without one, the largest region in the middle.
    """
    area = height * width * (0.08 + 0.92 * noise.at("area").uniform(10))
    ratio = torch.exp(math.log(4 / 3) * (2 * noise.at("ratio").uniform(10) - 1))
    tall, wide = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    best = min(max(width / height, 3 / 4), 4 / 3)
    fallback = min(height, round(width / best)), min(width, round(height * best))
    found = fits.any(1, keepdim=True)

    def placed(way: str, lengths: Tensor, otherwise: int, side: int) -> tuple[Tensor, Tensor]:
        length = torch.where(found, lengths.gather(1, first), float(otherwise))
        start = (noise.at(way).uniform()[:, None] * (side - length + 1)).floor()
        return torch.where(found, start, float((side - otherwise) // 2)), length

    top, tall = placed("top", tall, fallback[0], height)
    left, wide = placed("left", wide, fallback[1], width)
    return top, left, tall, wide


def _places(first: Tensor, length: Tensor, count: int) -> Tensor:
    """Return (B, count) pixels: the middles of ``count`` equal parts of each stretch, (B, 1), kept inside it."""
    middles = (torch.arange(count, device=first.device) + 0.5) * (length / count) - 0.5
    return first + torch.minimum(middles.clamp(min=0), length - 1)


def _sampled(images: Tensor, dim: int, places: Tensor) -> Tensor:
    """Return float32 ``images`` (B, C, H, W) at ``places`` (B, n) along ``dim``, linearly between the two nearest."""
    shape = list(images.shape)
    shape[dim] = places.shape[1]
    places = places.view(len(places), *((1, -1, 1) if dim == 2 else (1, 1, -1)))
    low = places.floor()
    high = (low + 1).clamp(max=images.shape[dim] - 1)
    before, after = (images.gather(dim, index.long().expand(shape)) for index in (low, high))
    share = places - low
    return before.mul_(1 - share).add_(after.mul_(share))


def _outside(noise: Noise, side: int) -> Tensor:
    """Return (B, side) bool: False in a stretch of half the side around a random place, cut off at the ends."""
    reach = max(1, side // 4)
    away = torch.arange(side, device=noise.index.device) - noise.integers(side)[:, None]
    return (away < -reach) | (away >= reach)


def _beside(values: Tensor, images: Tensor) -> Tensor:
    """Return ``values`` (B, ...) on the device of ``images``."""
    return sent(values, images.device) if values.device.type == "cpu" else values.to(images.device)


def _view(images: Tensor, noise: Noise, flip: Tensor) -> Tensor:
    """Crop each image at its own offset and mirror where ``flip`` (B,) says so, in one gather."""
    batch, channels, height, width = images.shape
    down, right = padding(height), padding(width)
    padded = F.pad(images, (right, right, down, down))
    top = _beside(noise.at("crop", "top").integers(2 * down + 1), images)
    left = _beside(noise.at("crop", "left").integers(2 * right + 1), images)
    flip = _beside(flip, images)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    view = padded.flatten(2).gather(2, places.reshape(batch, 1, -1).expand(-1, channels, -1))
    return view.reshape(images.shape)
