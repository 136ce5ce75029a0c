from __future__ import annotations

import pytest
import torch

from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import ImageSet, to_unit
from robustbench_gkl.models import create_model
from robustbench_gkl.training.validation import overfitting, validate


def rows(robust: list[float], training: list[float] | None = None) -> list[dict[str, float]]:
    trained = training or [0.0] * len(robust)
    return [{"val_robust_acc": r, "train_robust_acc": t} for r, t in zip(robust, trained, strict=True)]


def test_the_probe_counts_what_a_plain_count_does() -> None:
    torch.manual_seed(0)
    model = create_model("tiny-cnn", num_classes=3, input_shape=(1, 6, 6))
    images = ImageSet(torch.randint(0, 256, (40, 1, 6, 6), dtype=torch.uint8), torch.arange(40) % 3, ("a", "b", "c"))
    threat = ThreatModel("linf", "4/255")
    clean, robust = validate(model, images, threat, steps=3, seed=1, batch_size=7)
    with torch.no_grad():
        right = model(to_unit(images.images)).argmax(1) == images.labels
    assert clean == pytest.approx(100 * float(right.float().mean()), abs=1e-3)
    assert robust <= clean
    none = validate(model, images, ThreatModel("linf", 0), steps=1, seed=1, batch_size=40)
    assert none == (clean, clean)
    assert validate(model, images, ThreatModel("linf", "1"), steps=20, seed=1, batch_size=40)[1] < clean
    assert validate(model, images, threat, steps=3, seed=1, batch_size=40) == (clean, robust)


def test_a_sudden_collapse_is_told_once() -> None:
    fallen = rows([20, 30, 40, 1])
    message = overfitting(fallen)
    assert message is not None
    assert "from 40.0 % (epoch 3) to 1.0 %: catastrophic overfitting" in message
    assert overfitting(rows([20, 30, 40, 1, 2])) is None
    assert overfitting(fallen[:3]) is None


def test_a_slow_decline_is_told_once_and_only_if_training_goes_on_rising() -> None:
    declining = [40.0, 45, 44, 41, 40, 39]
    rising = [40.0, 50, 55, 60, 65, 70]
    assert overfitting(rows(declining[:5], rising[:5])) is None
    assert "robust overfitting" in (overfitting(rows(declining, rising)) or "")
    assert overfitting(rows([*declining, 38], [*rising, 75])) is None
    assert overfitting(rows(declining, [40, 50, 49, 48, 47, 46])) is None


def test_an_untrained_model_raises_no_alarm() -> None:
    assert overfitting(rows([9, 3])) is None
    assert overfitting(rows([0])) is None
