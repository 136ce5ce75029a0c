"""Images brought to size, against torchvision's transforms of Pillow images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import load_dataset
from robustbench_gkl.data.resized import fit_of, resized
from robustbench_gkl.data.resizing import INTERPOLATIONS, UNCHANGED, Fit, Interpolation

SIZES = ((37, 50), (50, 37), (41, 41), (24, 24), (23, 60))
GENERATOR = np.random.default_rng(0)


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return (C, H, W) uint8: waves with noise, so that the interpolations differ."""
    waves = 127 * (1 + np.sin(np.arange(height)[:, None] / 3 + np.arange(width)[None] / 5))
    noise = GENERATOR.integers(0, 64, (channels, height, width))
    return np.clip(waves[None] - 32 + noise, 0, 255).astype(np.uint8)


def as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def by_torchvision(pixels: np.ndarray, fit: Fit) -> np.ndarray:
    """Return what torchvision makes of the same image."""
    steps: list[torch.nn.Module] = []
    if fit.resize is not None:
        steps.append(Resize(fit.resize, interpolation=InterpolationMode(fit.interpolation)))
    if fit.crop is not None:
        steps.append(CenterCrop(fit.crop))
    made = np.asarray(Compose(steps)(as_image(pixels)))
    return made[None] if made.ndim == 2 else made.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", [Fit(32, 28), Fit(29), Fit(None, 23), Fit((31, 26), 25), Fit(64, 56)], ids=str)
def test_pixels_are_those_of_torchvision(fit: Fit, size: tuple[int, int], channels: int) -> None:
    pixels = picture(*size, channels)
    made = fit.image(pixels)
    assert made.dtype == np.uint8
    assert np.array_equal(made, by_torchvision(pixels, fit))
    assert made.shape[1:] == fit.size(size)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_each_interpolation_is_its_own(interpolation: Interpolation) -> None:
    pixels, fit = picture(37, 50), Fit(24, 20, interpolation)
    made = fit.image(pixels)
    assert np.array_equal(made, by_torchvision(pixels, fit))
    others = [Fit(24, 20, other).image(pixels) for other in INTERPOLATIONS if other != interpolation]
    assert not any(np.array_equal(made, other) for other in others)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="--crop 30 is larger than the images, 24x24"):
        Fit(24, 30).image(picture(50, 50))


def test_a_folder_of_photographs_of_several_sizes(tmp_path: Path) -> None:
    fit, expected = Fit(24, 20), []
    for label, size in enumerate(SIZES):
        pixels = picture(*size)
        folder = tmp_path / "test" / f"class{label}"
        folder.mkdir(parents=True)
        as_image(pixels).save(folder / "image.png")
        expected.append(by_torchvision(pixels, fit))
    dataset = load_dataset(f"folder:{tmp_path}", data_dir=tmp_path)
    with pytest.raises(UserError, match="images must have one size"):
        dataset.load("test")
    fitted = resized(dataset, fit)
    assert fitted.shape == (3, 20, 20)
    assert fit_of(fitted) == fit
    assert np.array_equal(fitted.load("test").images.numpy(), np.stack(expected))


def test_a_data_set_in_memory(tmp_path: Path) -> None:
    dataset = load_dataset("digits", data_dir=tmp_path)
    fit = Fit(16, 12)
    fitted = resized(dataset, fit)
    assert (fitted.shape, fitted.classes, fit_of(fitted)) == ((1, 12, 12), dataset.classes, fit)
    before, after = dataset.load("test"), fitted.load("test")
    assert torch.equal(before.labels, after.labels)
    for row in (0, 7, 359):
        assert np.array_equal(after.images[row].numpy(), by_torchvision(before.images[row].numpy(), fit))


def test_nothing_to_do_leaves_the_data_set_as_it_is(tmp_path: Path) -> None:
    dataset = load_dataset("digits", data_dir=tmp_path)
    assert resized(dataset, UNCHANGED) is dataset
    assert resized(dataset, Fit(interpolation="bicubic")) is dataset
    assert fit_of(dataset) == UNCHANGED
