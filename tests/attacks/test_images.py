"""Submitted images are verified like any candidate, and belong to samples by index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from linear_model import Linear, optimum, samples
from safetensors.numpy import save_file

from robustbench_gkl import ThreatModel, evaluate
from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation import Evaluation

SHAPE = (1, 4, 4)
N = 24
RADIUS = 0.02
MODEL = Linear(classes=3, shape=SHAPE, seed=0)
IMAGES = samples(N, SHAPE, seed=1)
LABELS = MODEL(IMAGES).argmax(1)
DISTANCE = optimum(MODEL, IMAGES, LABELS, "linf")
BREAKABLE = DISTANCE < 0.99 * RADIUS


def shortest(scale: float = 1.01) -> np.ndarray:
    """The nearest adversarial image of each sample, a little past the boundary."""
    images = []
    for image, label in zip(IMAGES, LABELS, strict=True):
        best, step = float("inf"), torch.zeros_like(image)
        for other in range(3):
            if other != label:
                slope = (MODEL.weight[other] - MODEL.weight[label]).detach()
                gap = float((MODEL(image[None])[0, label] - MODEL(image[None])[0, other]).detach())
                if (reach := gap / float(slope.abs().sum())) < best:
                    best, step = reach, scale * reach * slope.sign().view(SHAPE)
        images.append((image + step).numpy())
    return np.stack(images)


def written(folder: Path, **arrays: np.ndarray) -> str:
    path = folder / "submitted.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return f"images:{path}"


def attacked(spec: str, radius: float = RADIUS) -> Evaluation:
    return evaluate(MODEL, IMAGES, LABELS, ThreatModel("linf", radius), [spec])


def test_the_fixture_has_samples_of_both_kinds() -> None:
    assert 3 < int(BREAKABLE.sum()) < N - 3


def test_true_adversarial_images_break_and_those_outside_the_ball_are_rejected(tmp_path: Path) -> None:
    result = attacked(written(tmp_path, images=shortest()))
    (stage,) = result.attacks[0].stages
    assert result.standing.tolist() == (~BREAKABLE).tolist()
    assert stage.rejected == int((DISTANCE > RADIUS).sum())
    assert result.attacks[0].spec is not None
    assert parse_attack(result.attacks[0].spec) == parse_attack(f"images:{tmp_path}/submitted.npz")


def test_images_belong_to_the_samples_of_their_index(tmp_path: Path) -> None:
    rows = np.flatnonzero(BREAKABLE.numpy())[[2, 0]]
    result = attacked(written(tmp_path, images=shortest()[rows], index=rows))
    assert np.flatnonzero(~result.standing).tolist() == sorted(rows.tolist())


def test_safetensors_say_the_same(tmp_path: Path) -> None:
    save_file({"images": shortest()}, tmp_path / "submitted.safetensors")
    result = attacked(f"images:{tmp_path}/submitted.safetensors")
    assert result.standing.tolist() == (~BREAKABLE).tolist()


def test_an_attack_that_leaves_the_images_alone_breaks_nothing(tmp_path: Path) -> None:
    assert attacked(written(tmp_path, images=IMAGES.numpy())).robust_acc == 100


def test_the_file_is_known_by_its_hash(tmp_path: Path) -> None:
    spec = parse_attack(written(tmp_path, images=shortest()))
    moved = tmp_path / "moved.npz"
    (tmp_path / "submitted.npz").rename(moved)
    assert parse_attack(spec.canonical) == spec == parse_attack(f"images:{moved}")
    other = parse_attack(written(tmp_path, images=IMAGES.numpy()))
    assert other != spec
    with pytest.raises(UserError, match="has changed"):
        attacked(spec.canonical)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((1, *SHAPE))}, "must hold an array images"),
        ({"images": np.zeros((1, 4, 4))}, "must be float32"),
        ({"images": np.zeros((1, *SHAPE), dtype=np.uint8)}, "must be float32"),
        ({"images": np.zeros((1, 3, 4, 4))}, "its images are 3x4x4, those of the data set 1x4x4"),
        ({"images": np.zeros((2, *SHAPE)), "index": np.array([0])}, "index must be 2 integers"),
        ({"images": np.zeros((2, *SHAPE)), "index": np.array([0, 0])}, "each sample once"),
        ({"images": np.zeros((2, *SHAPE)), "index": np.array([0, -1])}, "each sample once"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attacked(written(tmp_path, **arrays))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="attack images needs a value for its option file"):
        parse_attack("images")
    with pytest.raises(UserError, match="cannot be read"):
        parse_attack(f"images:{tmp_path}/absent.npz")
    with pytest.raises(UserError, match="images:FILE needs"):
        parse_attack("images:adversarial.pt")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"no readable \.npz file"):
        attacked(f"images:{tmp_path}/broken.npz")
