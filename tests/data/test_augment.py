from __future__ import annotations

import numpy as np
import pytest
import torch
from device_waits import no_waits
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.data.augment import AUGMENTATIONS, augment

SHAPES = [(7, 1, 8, 8, 1), (6, 3, 32, 32, 4), (5, 1, 28, 28, 3), (4, 3, 16, 24, None), (3, 2, 5, 3, 1)]


def random_images(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels / 255


def noise_for(count: int, *, epoch: int = 0) -> Noise:
    return Noise(5, torch.arange(count) * 11 + 2).at("augment", epoch)


def reference(images: Tensor, noise: Noise, *, flip: bool) -> Tensor:
    """Crop one image after the other with slices."""
    down, right = (max(1, side // 8) for side in images.shape[2:])
    tops = noise.at("crop", "top").integers(2 * down + 1).tolist()
    lefts = noise.at("crop", "left").integers(2 * right + 1).tolist()
    flips = noise.at("flip").integers(2).tolist()
    views = []
    for image, top, left, mirror in zip(images.numpy(), tops, lefts, flips, strict=True):
        padded = np.pad(image, ((0, 0), (down, down), (right, right)))
        view = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        views.append(view[:, :, ::-1] if flip and mirror else view)
    return torch.from_numpy(np.stack(views))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("batch", "channels", "height", "width", "_"), SHAPES)
@pytest.mark.parametrize("name", ["crop", "crop-flip"])
def test_views_are_exact_crops(
    name: str, batch: int, channels: int, height: int, width: int, _: int | None, dtype: torch.dtype
) -> None:
    images = random_images(batch, channels, height, width, dtype=dtype)
    noise = noise_for(batch)
    assert torch.equal(augment(images, name=name, noise=noise), reference(images, noise, flip=name == "crop-flip"))


@pytest.mark.parametrize(("batch", "channels", "height", "width", "shift"), SHAPES)
def test_a_crop_shifts_by_an_eighth_of_the_side_at_most(
    batch: int, channels: int, height: int, width: int, shift: int | None
) -> None:
    if shift is None:
        pytest.skip("not square")
    images = torch.zeros(2000, 1, height, width, dtype=torch.uint8)
    images[:, :, height // 2, width // 2] = 1
    views = augment(images, name="crop", noise=noise_for(2000))
    places = views.flatten(1).argmax(1)
    offsets = torch.stack([places // width - height // 2, places % width - width // 2])
    counts = [row.add(shift).bincount(minlength=2 * shift + 1) for row in offsets]
    expected = 2000 / (2 * shift + 1)
    for count in counts:
        assert len(count) == 2 * shift + 1
        assert float((count - expected).abs().max()) < 5 * expected**0.5


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_view_depends_on_its_own_sample_alone(name: str, dtype: torch.dtype) -> None:
    images = random_images(9, 3, 32, 32, dtype=dtype)
    before = images.clone()
    noise = noise_for(9)
    views = augment(images, name=name, noise=noise)
    assert torch.equal(images, before)
    assert (views.shape, views.dtype, views.device) == (images.shape, dtype, images.device)
    assert views.is_contiguous()
    rows = torch.tensor([7, 0, 3])
    assert torch.equal(augment(images[rows], name=name, noise=noise.take(rows)), views[rows])
    assert torch.equal(augment(images, name=name, noise=noise), views)


@pytest.mark.parametrize("name", ["crop", "crop-flip", "resized-crop-flip"])
def test_another_epoch_shows_other_views(name: str) -> None:
    images = random_images(40, 1, 28, 28)
    first, second = (augment(images, name=name, noise=noise_for(40, epoch=epoch)) for epoch in (0, 1))
    assert int((first != second).flatten(1).any(1).sum()) > 35


def test_half_of_the_images_are_flipped_independently_of_the_crop() -> None:
    ramp = torch.arange(1, 17, dtype=torch.uint8).expand(4000, 1, 16, 16)
    views = augment(ramp, name="crop-flip", noise=noise_for(4000))
    crops = augment(ramp, name="crop", noise=noise_for(4000))
    middle = views[:, 0, 8]
    flipped = middle[:, 7] > middle[:, 8]
    assert torch.equal(torch.where(flipped[:, None, None, None], views.flip(3), views), crops)
    assert abs(int(flipped.sum()) - 2000) < 5 * 1000**0.5
    left = crops[:, 0, 8, 2] < 3
    assert abs(float(flipped[left].float().mean()) - 0.5) < 0.07


def regions(noise: Noise, side: int) -> list[tuple[int, int, int, int]]:
    """Draw top, left, height and width of each sample's region, one draw after the other as torchvision does."""
    areas, ratios = noise.at("region", "area").uniform(10).tolist(), noise.at("region", "ratio").uniform(10).tolist()
    tops, lefts = (noise.at("region", way).uniform().tolist() for way in ("top", "left"))
    found = []
    for row in range(len(areas)):
        tall = wide = side
        for share, turn in zip(areas[row], ratios[row], strict=True):
            area, ratio = side * side * (0.08 + 0.92 * share), (4 / 3) ** (2 * turn - 1)
            height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if 0 < height <= side and 0 < width <= side:
                tall, wide = height, width
                break
        found.append((int(tops[row] * (side - tall + 1)), int(lefts[row] * (side - wide + 1)), tall, wide))
    return found


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resized_crops_are_those_of_torchvision(dtype: torch.dtype) -> None:
    from torchvision.transforms.v2 import functional as vision

    images, noise = random_images(300, 3, 32, 32, dtype=dtype), noise_for(300)
    views = augment(images, name="resized-crop-flip", noise=noise)
    flips = noise.at("flip").integers(2).tolist()
    drawn = regions(noise, 32)
    for image, view, mirror, (top, left, tall, wide) in zip(images, views, flips, drawn, strict=True):
        theirs = vision.resized_crop(image, top, left, tall, wide, [32, 32], antialias=True)
        away = (view.float() - (theirs.flip(2) if mirror else theirs).float()).abs().max()
        assert float(away) <= (1.0 if dtype == torch.uint8 else 1e-5)
    assert {(top + tall <= 32, left + wide <= 32) for top, left, tall, wide in drawn} == {(True, True)}


@pytest.mark.parametrize(("height", "width"), [(4, 40), (40, 4), (8, 8)])
def test_images_of_every_shape_have_a_region(height: int, width: int) -> None:
    ramp = torch.arange(height * width).reshape(1, 1, height, width).expand(500, 1, height, width).float()
    views = augment(ramp, name="resized-crop-flip", noise=noise_for(500))
    assert views.shape == ramp.shape
    assert 0 <= float(views.min()) < float(views.max()) <= height * width - 1


@pytest.mark.parametrize(("height", "width"), [(4, 200), (200, 4)])
def test_where_no_draw_fits_the_middle_is_shown_as_by_torchvision(height: int, width: int) -> None:
    from torchvision.transforms import v2

    images, noise = random_images(50, 1, height, width, dtype=torch.float32), noise_for(50)
    theirs = v2.RandomResizedCrop((height, width))(images)  # 8 % of such an image is too wide for it in any shape
    mirrored = noise.at("flip").integers(2).bool()[:, None, None, None]
    views = augment(images, name="resized-crop-flip", noise=noise)
    assert torch.allclose(views, torch.where(mirrored, theirs.flip(3), theirs), atol=1e-5)


def test_none_returns_the_images() -> None:
    images = random_images(3, 1, 8, 8)
    assert torch.equal(augment(images, name="none", noise=noise_for(3)), images)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(UserError, match=r"unknown augmentation 'flip-crop'.*crop, crop-flip, .*none"):
        augment(random_images(3, 1, 8, 8), name="flip-crop", noise=noise_for(3))


def test_noise_must_be_for_these_images() -> None:
    with pytest.raises(ValueError, match="noise for 1 samples cannot augment 3 images"):
        augment(random_images(3, 1, 8, 8), name="crop", noise=noise_for(1))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_views_are_the_same_on_every_device(name: str) -> None:
    images = random_images(9, 3, 32, 32)
    there = images.cuda()
    with no_waits():
        views = augment(there, name=name, noise=noise_for(9))
    assert views.is_cuda
    assert torch.equal(views.cpu(), augment(images, name=name, noise=noise_for(9)))
