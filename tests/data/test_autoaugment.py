"""AutoAugment against torchvision's own class."""

from __future__ import annotations

import math

import pytest
import torch
from device_waits import no_waits
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from robustbench_gkl.core.noise import Noise
from robustbench_gkl.data.augment import augment
from robustbench_gkl.data.autoaugment import CIFAR10_POLICY, operate


def some_images(count: int, *, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, 32, 32), dtype=torch.uint8, generator=generator)


def theirs() -> v2.AutoAugment:
    return v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)


def test_the_policy_is_torchvisions() -> None:
    expected = [tuple((name, chance, level or 0) for name, chance, level in pair) for pair in theirs()._policies]
    assert list(CIFAR10_POLICY) == expected


OPERATIONS = sorted({(name, level) for pair in CIFAR10_POLICY for name, _, level in pair})


@pytest.mark.parametrize(("name", "level"), OPERATIONS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_each_operation_is_torchvisions(name: str, level: int, sign: float) -> None:
    transform = theirs()
    magnitudes, signed = transform._AUGMENTATION_SPACE[name]
    table = magnitudes(10, 32, 32)
    amount = 0.0 if table is None else float(table[level]) * (sign if signed else 1)
    images = some_images(5)
    expected = torch.stack(
        [
            transform._apply_image_or_video_transform(
                image, name, amount, interpolation=transform.interpolation, fill=transform._fill
            )
            for image in images
        ]
    )
    got = operate(images, name, level=level, sign=sign)
    # Magnitudes are float32 there, which moves roundings by one grey level.
    assert int((got.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("pixels", [torch.uint8, torch.float32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_operations_of_our_own_are_torchvisions_to_the_bit(sign: float, pixels: torch.dtype) -> None:
    images = some_images(6)[:, :, :, :20]
    images[0], images[1, 0] = 7, 0  # of one value: nothing to stretch
    if pixels == torch.float32:
        images = images / 255
    slope, turn, shift = sign * 0.3 * 4 / 9, sign * 30.0 * 4 / 9, sign * 150 / 331 * 4 / 9
    degrees = math.degrees(math.atan(slope))
    expected = {
        "ShearX": functional.affine(images, 0.0, [0, 0], 1.0, [degrees, 0.0], center=[0, 0]),
        "ShearY": functional.affine(images, 0.0, [0, 0], 1.0, [0.0, degrees], center=[0, 0]),
        "TranslateX": functional.affine(images, 0.0, [int(shift * 20), 0], 1.0, [0.0, 0.0]),
        "TranslateY": functional.affine(images, 0.0, [0, int(shift * 32)], 1.0, [0.0, 0.0]),
        "Rotate": functional.rotate(images, turn),
        "Sharpness": functional.adjust_sharpness(images, 1 + sign * 0.9 * 4 / 9),
        "AutoContrast": functional.autocontrast(images),
    }
    for name, wanted in expected.items():
        got = operate(images, name, level=4, sign=sign)
        assert got.dtype == pixels
        assert torch.equal(got, wanted), name
        assert not torch.equal(got, images)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels", [1, 3])
def test_no_wait_for_the_device_and_the_same_views(channels: int) -> None:
    images, noise = some_images(60, channels=channels), Noise(1, torch.arange(60))
    there = images.cuda()
    with no_waits():
        views = augment(there, name="autoaugment", noise=noise)
    assert torch.equal(views.cpu(), augment(images, name="autoaugment", noise=noise))


def test_policies_are_drawn_evenly_and_applied_as_often_as_they_say() -> None:
    images = some_images(1).expand(3000, -1, -1, -1)
    noise = Noise(7, torch.arange(3000))
    policies = noise.at("autoaugment", "policy").integers(25)
    counts = torch.bincount(policies, minlength=25)
    assert float((counts - 120).abs().max()) < 5 * 120**0.5
    views = augment(images, name="autoaugment", noise=noise)
    plain = augment(images, name="crop-flip", noise=noise)
    changed = (views != plain).flatten(1).any(1)
    # Pair 1 rotates with probability 0.7 and shifts with 0.3: 0.79 of its images are changed; pair 0 changes 0.28.
    for pair, share in ((1, 0.79), (0, 0.28)):
        assert abs(float(changed[policies == pair].float().mean()) - share) < 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour(channels: int) -> None:
    images = some_images(60, channels=channels)
    views = augment(images, name="autoaugment", noise=Noise(1, torch.arange(60)))
    assert views.shape == images.shape
    assert int((views != images).flatten(1).any(1).sum()) > 50


def test_cutout_blanks_a_square_around_a_random_place() -> None:
    images = torch.full((400, 3, 32, 32), 255, dtype=torch.uint8)
    noise = Noise(3, torch.arange(400))
    views = augment(images, name="crop-flip-cutout", noise=noise)
    plain = augment(images, name="crop-flip", noise=noise)
    blank = ((views == 0) & (plain != 0)).any(1)
    assert torch.equal(torch.where(blank[:, None], 0, plain), views)
    assert int(blank.any(1).sum(1).max()) == 16
    assert int(blank.any(2).sum(1).max()) == 16
    whole = blank.flatten(1).sum(1) == 16 * 16
    assert 0.1 < float(whole.float().mean()) < 0.6
