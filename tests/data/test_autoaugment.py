"""AutoAugment against torchvision's own class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

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
