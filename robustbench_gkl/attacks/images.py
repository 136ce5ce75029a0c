"""Submitted adversarial images, read from a file."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.specs.images import SubmittedImages
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.core.threat import ThreatModel


def propose(
    spec: SubmittedImages, model: Model, images: Tensor, labels: Tensor, threat: ThreatModel, *, noise: Noise
) -> Tensor:
    """Return the submitted image of each sample (B, C, H, W); the original where there is none.

    Raises:
        UserError: the file is gone, has changed or cannot be used.
    """
    check_submitted(spec, images)
    submitted, places = _read(spec)
    candidates = images.clone()
    for row, index in enumerate(noise.index.tolist()):
        if (place := places.get(index)) is not None:
            candidates[row] = torch.from_numpy(submitted[place]).to(images.device)
    return candidates


def check_submitted(spec: SubmittedImages, images: Tensor) -> None:
    """Check that the submitted images can be read and have the size of ``images`` (N, C, H, W).

    Raises:
        UserError: the file is gone, has changed or cannot be used.
    """
    submitted, _ = _read(spec)
    if submitted.shape[1:] != images.shape[1:]:
        raise UserError(
            f"{spec.file}: its images are {_size(submitted.shape[1:])}, those of the data set "
            f"{_size(images.shape[1:])}; write them as (M, C, H, W)"
        )


@lru_cache(maxsize=2)
def _read(spec: SubmittedImages) -> tuple[np.ndarray, dict[int, int]]:
    """Return the images (M, C, H, W) float32, and the row of each sample's index.

    Raises:
        UserError: not such a file, or arrays of another kind.
    """
    path = spec.path()
    arrays = _arrays(path)
    if "images" not in arrays:
        raise UserError(f"{path} must hold an array images (M, C, H, W), float32 in [0, 1]; it has none")
    images, index = arrays["images"], arrays.get("index")
    if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{path}: images must be float32 (M, C, H, W) in [0, 1], got {images.dtype} {images.shape}")
    if index is None:
        index = np.arange(len(images))
    if index.shape != (len(images),) or not np.issubdtype(index.dtype, np.integer):
        raise UserError(f"{path}: index must be {len(images)} integers, one an image, got {index.dtype} {index.shape}")
    if len(np.unique(index)) < len(index) or (len(index) and index.min() < 0):
        raise UserError(f"{path}: index must name each sample once, by its place in the split from 0 on")
    return images.astype(np.float32), {int(at): row for row, at in enumerate(index)}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in ("images", "index")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path} is no readable {path.suffix} file ({text}); write it with numpy.savez") from None


def _size(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape))
