"""AutoAugment's CIFAR-10 policy (Cubuk et al., CVPR 2019, arXiv 1805.09501) with random numbers that belong to samples.

The operations are torchvision's; its own class draws from a global generator and one policy for a whole batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
        for (name, level, sign), members in groups.items():
            rows = torch.tensor(members).to(view.device, non_blocking=True)
            view.index_copy_(0, rows, operate(view.index_select(0, rows), name, level=level, sign=sign))
    return view


def operate(images: Tensor, name: str, *, level: int, sign: float) -> Tensor:
    """Return ``images`` (B, C, H, W) after one of AutoAugment's operations.

    Args:
        images: uint8, or float in [0, 1].
        name: such as ``ShearX`` or ``Equalize``.
        level: magnitude from 0 to 9.
        sign: 1 or -1, for operations that go both ways.
    """
    from torchvision.transforms.v2 import functional as F  # slow to import, and only needed here

    amount = sign * _SIGNED.get(name, 0.0) * level / 9
    degrees = math.degrees(math.atan(amount))
    height, width = images.shape[2:]
    top = 255.0 if images.dtype == torch.uint8 else 1.0
    operations = {
        "ShearX": lambda: F.affine(images, 0.0, [0, 0], 1.0, [degrees, 0.0], center=[0, 0]),
        "ShearY": lambda: F.affine(images, 0.0, [0, 0], 1.0, [0.0, degrees], center=[0, 0]),
        "TranslateX": lambda: F.affine(images, 0.0, [int(amount * width), 0], 1.0, [0.0, 0.0]),
        "TranslateY": lambda: F.affine(images, 0.0, [0, int(amount * height)], 1.0, [0.0, 0.0]),
        "Rotate": lambda: F.rotate(images, amount),
        "Brightness": lambda: F.adjust_brightness(images, 1 + amount),
        "Color": lambda: F.adjust_saturation(images, 1 + amount),
        "Contrast": lambda: F.adjust_contrast(images, 1 + amount),
        "Sharpness": lambda: F.adjust_sharpness(images, 1 + amount),
        "Posterize": lambda: F.posterize(images, 8 - round(level / 9 * 4)),
        "Solarize": lambda: F.solarize(images, top * (1 - level / 9)),
        "AutoContrast": lambda: F.autocontrast(images),
        "Equalize": lambda: F.equalize(images),
        "Invert": lambda: F.invert(images),
    }
    changed: Tensor = operations[name]()
    return changed
