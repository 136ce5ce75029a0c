"""AutoAugment's CIFAR-10 policy (Cubuk et al., CVPR 2019, arXiv 1805.09501) with random numbers that belong to samples.

The operations are torchvision's; its own class draws from a global generator and one policy for a whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_gkl.core.device import sent
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.data.augment import AUGMENTATIONS, crop_flip

Operation = tuple[str, float, int]
"""Name, probability, and magnitude from 0 to 9 (which some operations do not have)."""

CIFAR10_POLICY: tuple[tuple[Operation, Operation], ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
"""Table 7 of the paper: one of the 25 pairs is drawn for each image."""

_SIGNED = {
    "ShearX": 0.3,
    "ShearY": 0.3,
    "Rotate": 30.0,
    "TranslateX": 150 / 331,
    "TranslateY": 150 / 331,
    "Brightness": 0.9,
    "Color": 0.9,
    "Contrast": 0.9,
    "Sharpness": 0.9,
}
"""The largest magnitude of the operations that go both ways; translations in units of the side."""


@AUGMENTATIONS.register("autoaugment")
def autoaugment(images: Tensor, noise: Noise) -> Tensor:
    """Crop and flip as in ``crop-flip``, then AutoAugment's policy for CIFAR-10 (arXiv 1805.09501)."""
    view = crop_flip(images, noise).clone()
    # The drawing is done on the CPU: which operation is called is a decision of the host.
    drawn = Noise(noise.seed, noise.index.cpu(), noise.path).at("autoaugment")
    policies = drawn.at("policy").integers(len(CIFAR10_POLICY)).tolist()
    chances = drawn.at("chance").uniform(2).tolist()
    signs = drawn.at("sign").signs(2).tolist()
    for turn in range(2):
        groups: dict[tuple[str, int, float], list[int]] = {}
        for row, policy in enumerate(policies):
            name, probability, level = CIFAR10_POLICY[policy][turn]
            if chances[row][turn] < probability:
                sign = signs[row][turn] if name in _SIGNED else 1.0
                groups.setdefault((name, level, sign), []).append(row)
        members = list(groups.values())
        chosen = sent(torch.tensor([row for group in members for row in group], dtype=torch.int64), view.device)
        for (name, level, sign), rows in zip(
            groups, torch.split(chosen, [len(group) for group in members]), strict=True
        ):
            view.index_copy_(0, rows, operate(view.index_select(0, rows), name, level=level, sign=sign))
    return view


def operate(images: Tensor, name: str, *, level: int, sign: float) -> Tensor:
    """Return ``images`` (B, C, H, W) after one of AutoAugment's operations; the host does not wait for a device.

    Args:
        images: uint8, or float in [0, 1].
        name: such as ``ShearX`` or ``Equalize``.
        level: magnitude from 0 to 9.
        sign: 1 or -1, for operations that go both ways.
    """
    from torchvision.transforms.v2 import functional as vision  # slow to import, and only needed here

    amount = sign * _SIGNED.get(name, 0.0) * level / 9
    top = _top(images)
    operations: dict[str, Callable[[], Tensor]] = {
        "Brightness": lambda: vision.adjust_brightness(images, 1 + amount),
        "Color": lambda: vision.adjust_saturation(images, 1 + amount),
        "Contrast": lambda: vision.adjust_contrast(images, 1 + amount),
        "Sharpness": lambda: _sharpened(images, 1 + amount),
        "Posterize": lambda: vision.posterize(images, 8 - round(level / 9 * 4)),
        "Solarize": lambda: vision.solarize(images, top * (1 - level / 9)),
        "AutoContrast": lambda: _stretched(images),
        "Equalize": lambda: vision.equalize(images),
        "Invert": lambda: vision.invert(images),
    }
    return operations[name]() if name in operations else _moved(images, name, amount)


def _top(images: Tensor) -> float:
    """Return the value of white."""
    return 255.0 if images.dtype == torch.uint8 else 1.0


def _moved(images: Tensor, name: str, amount: float) -> Tensor:
    """Shear, shift or turn ``images`` (B, C, H, W); what comes from outside is black."""
    source = _source(name, amount, images.shape[2], images.shape[3], images.device)
    return F.pad(images.flatten(2), (1, 0)).index_select(2, source).view(images.shape)


@cache
def _source(name: str, amount: float, height: int, width: int, device: torch.device) -> Tensor:
    """Return (H W,) int64: which pixel comes to each place, counted from 1; 0 for none.

    It is what torchvision makes of the pixels' numbers, on the CPU: on a device it would wait for its matrix.
    """
    from torchvision.transforms.v2 import functional as vision

    numbers = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    degrees = math.degrees(math.atan(amount))
    operations: dict[str, Callable[[], Tensor]] = {
        "ShearX": lambda: vision.affine(numbers, 0.0, [0, 0], 1.0, [degrees, 0.0], center=[0, 0]),
        "ShearY": lambda: vision.affine(numbers, 0.0, [0, 0], 1.0, [0.0, degrees], center=[0, 0]),
        "TranslateX": lambda: vision.affine(numbers, 0.0, [int(amount * width), 0], 1.0, [0.0, 0.0]),
        "TranslateY": lambda: vision.affine(numbers, 0.0, [0, int(amount * height)], 1.0, [0.0, 0.0]),
        "Rotate": lambda: vision.rotate(numbers, amount),
    }
    return sent(operations[name]().long().flatten(), device)


def _sharpened(images: Tensor, factor: float) -> Tensor:
    """Blend ``images`` (B, C, H, W) with a blur by 3 by 3 pixels; the border stays.

    The formula is that of torchvision's ``adjust_sharpness``, which waits for its kernel.
    """
    channels, height, width = images.shape[1:]
    if min(height, width) <= 2:
        return images
    kernel = torch.full((9,), 1.0 / 13.0, device=images.device)
    kernel[4].fill_(5.0 / 13.0)
    sharp = images.to(torch.float32, copy=True)
    blurred = F.conv2d(sharp, kernel.view(1, 1, 3, 3).expand(channels, 1, 3, 3), groups=channels)
    if images.dtype == torch.uint8:
        blurred.round_()
    inner = sharp[..., 1:-1, 1:-1]
    inner.add_(blurred.sub_(inner), alpha=1.0 - factor)
    return sharp.clamp_(0, _top(images)).to(images.dtype)


def _stretched(images: Tensor) -> Tensor:
    """Stretch each channel of ``images`` (B, C, H, W) to the whole range, unless it is of one value.

    The formula is that of torchvision's ``autocontrast``, which waits for masks.
    """
    pixels = images.to(torch.float32)
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    even = high == low
    scale = torch.where(even, 1.0, (high - low) * (1.0 / _top(images)))
    return (pixels - torch.where(even, 0.0, low)).div_(scale).clamp_(0, _top(images)).to(images.dtype)
