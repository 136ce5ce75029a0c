from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.data import ImageSet, to_unit
from robustbench_gkl.models import create_model
from robustbench_gkl.ranks.collectives import World
from robustbench_gkl.training.validation import divergence, newest_is_best, overfitting, validate


def rows(robust: list[float], training: list[float] | None = None) -> list[dict[str, float]]:
    trained = training or [0.0] * len(robust)
    return [
        {"epoch": number, "val_robust_acc": robust, "train_robust_acc": train}
        for number, (robust, train) in enumerate(zip(robust, trained, strict=True), 1)
    ]


def test_the_probe_counts_what_a_plain_count_does() -> None:
    torch.manual_seed(0)
    model = create_model("tiny-cnn", num_classes=3, input_shape=(1, 6, 6))
    images = ImageSet(torch.randint(0, 256, (40, 1, 6, 6), dtype=torch.uint8), torch.arange(40) % 3, ("a", "b", "c"))
    some = torch.arange(0, 40, 2)
    threat = ThreatModel("linf", "4/255")

    def found(threat: ThreatModel, rows: torch.Tensor = some, *, steps: int, batch_size: int = 40) -> dict[str, float]:
        return validate(model, images, rows, threat, steps=steps, seed=1, batch_size=batch_size)

    clean, robust = found(threat, steps=3, batch_size=7).values()
    with torch.no_grad():
        right = (model(to_unit(images.images)).argmax(1) == images.labels)[some]
    assert clean == pytest.approx(100 * float(right.float().mean()), abs=1e-3)
    assert robust <= clean
    assert found(ThreatModel("linf", 0), steps=1) == {"val_clean_acc": clean, "val_robust_acc": clean}
    assert found(ThreatModel("linf", "1"), steps=20)["val_robust_acc"] < clean
    assert found(threat, steps=3) == {"val_clean_acc": clean, "val_robust_acc": robust}
    assert found(threat, steps=0) == {"val_clean_acc": clean}


class Flat(nn.Module):
    """A linear net that cannot be given no images."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(36, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(images.reshape(len(images), -1))
        return logits


def test_a_rank_without_an_image_asks_nothing() -> None:
    images = ImageSet(torch.zeros(4, 1, 6, 6, dtype=torch.uint8), torch.arange(4) % 3, ("a", "b", "c"))
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)  # no other rank adds anything
    try:
        found = validate(
            Flat(),  # type: ignore[arg-type]
            images,
            torch.tensor([2]),
            ThreatModel("linf", "4/255"),
            steps=1,
            seed=0,
            batch_size=5,
            world=World(1, 2),
        )
    finally:
        dist.destroy_process_group()
    assert found == {"val_clean_acc": 0, "val_robust_acc": 0}


@pytest.mark.parametrize(
    ("adversarial", "best"), [(True, [True, True, False, False]), (False, [True, False, True, False])]
)
def test_best_is_the_newest_that_beats_all_that_were_measured(adversarial: bool, best: list[bool]) -> None:
    rows: list[dict[str, float]] = [
        {"val_clean_acc": 50, "val_robust_acc": 30},
        {"val_clean_acc": 49, "val_robust_acc": 31},
        {"val_clean_acc": 51, "val_robust_acc": 30.5},
        {},
    ]
    assert [newest_is_best(rows[:count], adversarial=adversarial) for count in (1, 2, 3, 4)] == best


def test_best_goes_by_clean_accuracy_where_nothing_else_was_measured() -> None:
    rows: list[dict[str, float]] = [{"val_clean_acc": 50}, {"val_clean_acc": 51}, {"val_clean_acc": 51}]
    assert [newest_is_best(rows[:count], adversarial=True) for count in (1, 2, 3)] == [True, True, False]


def test_what_is_not_finite_is_named() -> None:
    model = create_model("tiny-cnn", num_classes=3, input_shape=(1, 6, 6))
    assert divergence({"loss": 1.0}, model) is None
    assert divergence({"loss": 1.0, "grad_norm": float("inf")}, model) == "the grad norm became infinite"
    assert divergence({"loss": float("nan")}, model) == "the loss became NaN"
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] = float("nan")
    assert divergence({"loss": 1.0}, model) == "the weights became infinite or NaN"


def test_epochs_without_a_measurement_raise_no_alarm() -> None:
    measured = rows([20, 30, 40, 1])
    assert overfitting([*measured, {"epoch": 5}]) is None
    assert overfitting([{"epoch": 1}]) is None
    sparse = [{"epoch": 0.0}, *measured]
    assert "from 40.0 % (epoch 3) to 1.0 %" in (overfitting(sparse) or "")


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
