"""Training with everything that only CUDA takes, at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_waits import no_waits

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import create_model
from robustbench_gkl.training.averaging import WeightAverage
from robustbench_gkl.training.batches import Batch
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import make_views

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "second views": {"augment": "crop-flip", "second_view": {"augment": "autoaugment"}},
    "cutmix": {"augment": "autoaugment", "cutmix": 1.0},
    "cutout": {"augment": "crop-flip-cutout"},
}


def config(precision: str, **options: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "loss": "gkl",
            "model": "tiny-cnn",
            "dataset": "digits",
            "threat": {"norm": "linf", "eps": "0.05"},
            "epochs": 4,
            "attack": {"steps": 2},
            "awp": {"gamma": 0.01, "start_epoch": 1},
            "averaging": {"per": "step", "warmup": 0},
            "optimizer": {"lr": 0.05, "clip": 1.0},
            "precision": precision,
            **options,
        }
    )


def trained(chosen: TrainConfig, device: str, *, quiet: bool) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Return the last step's scalars, and the weights and their average after three steps from the same net."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model("tiny-cnn", num_classes=10, input_shape=(3, 12, 12))
    model.to(device)
    loss = create_loss("gkl", num_classes=10, options={}, label_smoothing=0.0).to(device)
    stepper = Stepper(chosen, model=model, loss=loss, optimizer=build_optimizer(chosen.optimizer, model, loss))
    average = WeightAverage(chosen.averaging, model, total_steps=4)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (24, 3, 12, 12), dtype=torch.uint8, generator=generator).to(device)
    labels, samples = torch.arange(24).remainder(10).to(device), torch.arange(24)
    noise = Noise(0, samples.to(device)).at("train", 0)
    measured: dict[str, torch.Tensor] = {}

    def step(number: int) -> None:
        views = make_views(Batch(samples, images, labels), chosen, epoch=0, step=number)
        measured.update(stepper.step(views, threat=chosen.threat.threat(), noise=noise, epoch=0, generator_seed=number))
        average.after_step(model, step=number + 1)

    step(0)  # what is made once, such as the tables of AutoAugment, may wait
    for number in (1, 2):
        if quiet:
            with no_waits():
                step(number)
        else:
            step(number)
    tensors = [*model.parameters(), *average.model.parameters()]
    return {key: float(value) for key, value in measured.items()}, [tensor.detach().cpu() for tensor in tensors]


@pytest.mark.parametrize("name", OPTIONS)
def test_no_step_waits_and_float32_is_the_cpus(name: str) -> None:
    chosen = config("float32", **OPTIONS[name])
    figures, weights = trained(chosen, "cuda", quiet=True)
    expected, theirs = trained(chosen, "cpu", quiet=False)
    assert figures == pytest.approx(expected, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(weights, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_low_precision_stays_near_float32(name: str, precision: str) -> None:
    low, weights = trained(config(precision, **OPTIONS[name]), "cuda", quiet=True)
    full, exact = trained(config("float32", **OPTIONS[name]), "cuda", quiet=True)
    assert low["loss"] == pytest.approx(full["loss"], rel=0.03)
    assert all(tensor.dtype == torch.float32 for tensor in weights)
    moved = torch.cat([tensor.flatten() for tensor in weights]) - torch.cat([tensor.flatten() for tensor in exact])
    assert float(moved.abs().max()) < 0.02
    # Bfloat16 is in use: it has 8 bits.
    assert (float(moved.abs().max()) > 0) or precision == "tf32"


def test_the_second_device_alone() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    chosen = config("float32", **OPTIONS["second views"])
    _, weights = trained(chosen, "cuda:1", quiet=True)
    _, theirs = trained(chosen, "cuda:0", quiet=True)
    torch.testing.assert_close(weights, theirs)
