"""Model calls are counted as they are made."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.cli.plan_command import loss_passes
from robustbench_gkl.config.schema import ThreatConfig, TrainConfig
from robustbench_gkl.core.calls import Calls
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses import LOSSES, create_loss
from robustbench_gkl.models import create_model
from robustbench_gkl.suite.cost import LossPasses, PassTimes, Work, images_per_epoch, makespan, training_calls
from robustbench_gkl.training.batches import Batch
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import make_views

RECORDS = Path(__file__).parents[2] / "results" / "examples" / "digits" / "records"


def counted(config: TrainConfig, images: int) -> Calls:
    """Return the passes of one step, counted by hooks at the model's first layer."""
    model = create_model("tiny-cnn", num_classes=10, input_shape=(1, 8, 8))
    loss = create_loss(config.loss, num_classes=10)
    optimizer = build_optimizer(config.optimizer, model)
    teacher = create_model("tiny-cnn", num_classes=10, input_shape=(1, 8, 8)).eval().requires_grad_(False)
    stepper = Stepper(config, model=model, loss=loss, optimizer=optimizer, teacher=teacher)
    seen = {"forwards": 0, "backwards": 0, "updates": 0}

    def add(kind: str, gradient: Tensor) -> None:
        seen[kind] += len(gradient)

    def watch(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (batch,) = inputs
        seen["forwards"] += len(batch)
        if output.requires_grad:
            # The pass is one to the images where they ask for it: the weights are frozen while an attack runs.
            kind = "backwards" if batch.requires_grad else "updates"
            output.register_hook(partial(add, kind))  # type: ignore[no-untyped-call]

    for network in {model, stepper.folded.network}:
        network.register_forward_hook(watch)
    torch.manual_seed(0)
    batch = Batch(
        torch.arange(images), torch.randint(0, 256, (images, 1, 8, 8), dtype=torch.uint8), torch.randint(10, (images,))
    )
    noise = Noise(0, batch.samples)
    stepper.step(
        make_views(batch, config, epoch=0, step=0),
        threat=config.threat.threat(),
        noise=noise,
        epoch=0,
        generator_seed=0,
    )
    return Calls(**seen)


@pytest.mark.parametrize("loss", LOSSES.names())
@pytest.mark.parametrize(
    "extra", [{}, {"awp": {"gamma": 0.01, "start_epoch": 1}}, {"second_view": {"augment": "crop"}}]
)
def test_training_calls_are_those_of_a_step(loss: str, extra: dict[str, Any]) -> None:
    attack = {"steps": 3}
    config = TrainConfig.model_validate({"loss": loss, "epochs": 1, "attack": attack, "probe": {"steps": 1}} | extra)
    assert training_calls(config, loss=loss_passes(loss), images=6, held_out=0) == counted(config, 6)


def test_steps_of_the_attack_change_over_the_epochs() -> None:
    passes = LossPasses(crafts=True, inner_clean=False, outer=1)

    def backwards(budget: str) -> float:
        config = TrainConfig.model_validate({"epochs": 8, "attack": {"budget": budget}})
        return training_calls(config, loss=passes, images=1, held_out=0).backwards

    assert (backwards("low"), backwards("high"), backwards("high-as-run")) == (16, 2 * (2 + 3 + 4 + 5), 40)


def test_images_of_an_epoch() -> None:
    assert images_per_epoch(TrainConfig(dataset="digits", validation_fraction=0.1, batch_size=64)) == (1280, 144)
    assert images_per_epoch(TrainConfig(dataset="digits", train_size=100, validation_fraction=0, batch_size=64)) == (
        64,
        0,
    )
    assert images_per_epoch(TrainConfig(dataset="folder:nowhere")) is None


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_stages_cost_what_the_shipped_records_say(path: Path) -> None:
    record = json.loads(path.read_text())
    threat = ThreatConfig.model_validate(record["threat"])
    for spec, attack in zip(("pgd:steps=20", "autoattack"), record["attacks"], strict=True):
        stages = parse_attack(spec).stages(threat, num_classes=10)
        for stage, result in zip(stages, attack["stages"], strict=True):
            each = stage.calls(threat, num_classes=10)
            assert each is not None
            stood = result["attacked"] - result["broken"]
            for kind in ("forwards", "backwards"):
                least, most = getattr(each, kind) * stood, getattr(each, kind) * result["attacked"]
                # The engine's own checks of the candidates add a pass or two for each sample.
                assert least <= result[kind] + result["attacked"], (result["name"], kind)
                assert result[kind] <= most + 2 * result["attacked"], (result["name"], kind)


def test_the_calls_of_another_package_are_not_guessed() -> None:
    assert parse_attack("torchattacks.MIFGSM:steps=10").calls(ThreatConfig(), num_classes=10) is None


def test_an_attack_with_a_backward_pass_a_class_costs_more_where_there_are_more() -> None:
    ten, hundred = (parse_attack("fab").calls(ThreatConfig(), num_classes=number) for number in (10, 100))
    assert ten is not None
    assert hundred is not None
    assert hundred.backwards == 10 * ten.backwards
    assert hundred.forwards == ten.forwards


def test_pass_times() -> None:
    assert PassTimes.of(10.0).seconds(Calls(forwards=5, backwards=3, updates=1)) == pytest.approx(1.0)
    assert Calls(forwards=5, backwards=3, updates=1).total == 10


def test_makespan_by_hand() -> None:
    works = [Work(name, seconds) for name, seconds in (("a", 3), ("b", 3), ("c", 2), ("d", 2), ("e", 2))]
    assert makespan(works, 1) == 12
    assert makespan(works, 2) == 7  # longest first: 3 + 2 + 2 beside 3 + 2; the best would be 6
    assert makespan(works, 5) == makespan(works, 99) == 3
    chain = [Work("train", 5), Work("eval", 4, needs=("train",)), Work("other", 1), Work("more", 4, needs=("train",))]
    assert makespan(chain, 2) == 9
    assert makespan(chain, 1) == 14
    assert makespan([Work("eval", 4, needs=("done before",))], 3) == 4
    assert makespan([], 3) == 0
