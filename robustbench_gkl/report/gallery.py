"""Adversarial images beside their originals, as PNGs inside the page."""

from __future__ import annotations

import io
import math
import zipfile
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

Images = npt.NDArray[np.uint8] | npt.NDArray[np.floating]
MOST_EXHIBITS = 16


@dataclass(frozen=True)
class Exhibit:
    """One adversarial image; the three pictures are data URIs of PNGs."""

    index: int | None
    label: int
    prediction: int
    original: str
    adversarial: str
    difference: str
    magnification: float
    """By how much the difference is multiplied; 0 where there is none."""
    linf: float
    l2: float


def gallery(
    originals: Images,
    adversarials: Images,
    labels: npt.NDArray[np.integer],
    predictions: npt.NDArray[np.integer],
    *,
    index: npt.NDArray[np.integer] | None = None,
) -> list[Exhibit]:
    """Return each adversarial image beside its original and their magnified difference.

    The difference is drawn around mid-grey and multiplied so that its largest pixel just reaches black or white.
    It is computed before the images are rounded to 8 bits for display.

    Args:
        originals: (N, C, H, W), C 1 or 3, uint8 or float in [0, 1].
        adversarials: likewise.
        labels: (N,) true classes.
        predictions: (N,) classes that the model gives the adversarial images.
        index: (N,) the samples' indices in their data set.

    Raises:
        ValueError: shapes that do not fit, other than 1 or 3 channels, or values outside [0, 1].
    """
    before, after = _unit(originals), _unit(adversarials)
    if before.shape != after.shape or len(labels) != len(before) or len(predictions) != len(before):
        raise ValueError(
            f"need as many originals, adversarial images, labels and predictions, all of one size; got "
            f"{before.shape}, {after.shape}, {len(labels)} and {len(predictions)}"
        )
    exhibits = []
    for i, (clean, adversarial) in enumerate(zip(before, after, strict=True)):
        delta = adversarial - clean
        largest = float(np.abs(delta).max())
        magnification = 0.5 / largest if largest > 0 else 0.0
        exhibits.append(
            Exhibit(
                index=None if index is None else int(index[i]),
                label=int(labels[i]),
                prediction=int(predictions[i]),
                original=png_uri(clean),
                adversarial=png_uri(adversarial),
                difference=png_uri(0.5 + magnification * delta),
                magnification=magnification,
                linf=largest,
                l2=math.sqrt(float(np.square(delta).sum())),
            )
        )
    return exhibits


def _unit(images: Images) -> npt.NDArray[np.float64]:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must have shape (N, C, H, W) with 1 or 3 channels, got {images.shape}")
    unit = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
    if unit.size and not (np.isfinite(unit).all() and unit.min() >= 0 and unit.max() <= 1):
        raise ValueError("images must be uint8, or float in [0, 1]")
    return unit


def png_uri(image: npt.NDArray[np.float64]) -> str:
    """Return an image (C, H, W) in [0, 1], C 1 or 3, as the data URI of a PNG."""
    from PIL import Image

    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def read_gallery(path: Path, verdicts: pd.DataFrame) -> list[Exhibit] | str:
    """Return the gallery of an evaluation's saved adversarial images, or a sentence that says why there is none.

    Args:
        path: an ``.npz`` with ``index`` (n,), ``images`` (n, C, H, W) float32 in [0, 1] and ``original`` uint8.
        verdicts: of the same evaluation; samples that an attack broke are shown, in the file's order.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            index, images, original = (file[key] for key in ("index", "images", "original"))
        rows = verdicts.set_index("index").loc[index]
        fell = (rows["broken_by"].notna() & (rows["broken_by"] != "clean")).to_numpy(dtype=bool)
        shown = np.flatnonzero(fell)[:MOST_EXHIBITS]
        if not shown.size:
            return "No attack broke any of the samples whose images were saved."
        labels, predictions = (rows[key].to_numpy()[shown].astype(np.int64) for key in ("label", "adv_pred"))
        return gallery(original[shown], images[shown], labels, predictions, index=index[shown])
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return (
            f"{path} cannot be read as saved adversarial images; evaluate again with --save-adversarial 16 --overwrite."
        )
