"""What ranks compute together and one process computes alone; also the program that torchrun starts for it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import create_model
from robustbench_gkl.ranks import gradients
from robustbench_gkl.ranks.collectives import ALONE, World, joined, sum_over_ranks, world_from_environment
from robustbench_gkl.runs import DataHashes, Origin, Run
from robustbench_gkl.training import Interrupted, train
from robustbench_gkl.training.batches import Batch
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.origins import same_inputs
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.sync_batchnorm import synchronize
from robustbench_gkl.training.views import make_views

Found = dict[str, Tensor]
IMAGES = 7
"""In a batch: two ranks have 4 and 3 of them."""

STEPS: dict[str, dict[str, Any]] = {
    "trades": {"loss": "trades", "optimizer": {"lr": 0.1, "clip": 0.5, "nesterov": True}},
    "gkl": {"loss": "gkl", "loss_options": {"gamma": 0.5}, "label_smoothing": 0.1},
    "mart, two views": {"loss": "mart", "augment": "crop-flip", "second_view": {"augment": "autoaugment"}},
    "pgd-at, CutMix": {"loss": "pgd-at", "augment": "crop", "cutmix": 1.0},
    "standard": {"loss": "standard", "optimizer": {"name": "adamw", "lr": 0.01}},
    "gkl-kd": {"loss": "gkl-kd", "loss_options": {"warmup": 0}},
    "adaptive gkl-rd, two views": {"loss": "gkl-rd-adaptive", "second_view": {"augment": "crop-flip"}},
}


def normalization(momentum: float | None, world: World = ALONE) -> Found:
    """Put two batches whose mean is large against their deviation through one layer, and a gradient back."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, momentum=momentum).double()
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.normal_(layer.bias)
    model = nn.Sequential(layer)
    features = torch.randn(2, IMAGES, 3, 4, 5, dtype=torch.float64) + 1000
    slopes = torch.randn(2, IMAGES, 3, 4, 5, dtype=torch.float64)
    if world.size > 1:
        synchronize(model, world)
    found: Found = {}
    for number in range(2):
        own = features[number, world.rows].requires_grad_()
        out = model(own)
        out.backward(slopes[number, world.rows])
        assert own.grad is not None
        for name, part in (("out", out.detach()), ("gradient", own.grad)):
            whole = torch.zeros_like(slopes[0])
            whole[world.rows] = part
            sum_over_ranks([whole], world)
            found[f"{name} {number}"] = whole
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    sum_over_ranks(gradients, world)
    found |= {"weight": gradients[0], "bias": gradients[1]}
    return found | model.state_dict() | {"eval": model.eval()(features[0])}


def steps(name: str, world: World = ALONE, *, model: str = "wrn-10-1") -> Found:
    """Take three steps with AWP, then one with the class prior that they gave."""
    values = {"model": model, "awp": {"gamma": 0.01, "start_epoch": 1}, "attack": {"steps": 2}, "sync_batchnorm": True}
    config = TrainConfig.model_validate(values | STEPS[name])
    torch.manual_seed(0)
    network = create_model(model, num_classes=4, input_shape=(3, 8, 8)).double()
    if world.size > 1:
        synchronize(network, world)
    network.register_buffer("rank", torch.tensor(0.0, dtype=torch.float64))
    # A new tensor in the place of the old one at each pass: rank 0's counts.
    network.register_forward_pre_hook(lambda _, images: setattr(network, "rank", images[0].new_tensor(world.rank)))
    loss = create_loss(config.loss, num_classes=4, options=config.loss_options, label_smoothing=config.label_smoothing)
    loss = loss.double()
    teacher = create_model(model, num_classes=4, input_shape=(3, 8, 8)).double().eval().requires_grad_(False)
    stepper = Stepper(
        config,
        model=network,
        loss=loss,
        optimizer=build_optimizer(config.optimizer, network),
        teacher=teacher if loss.taught else None,
        world=world,
    )
    found: Found = {}
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 256, (IMAGES, 3, 8, 8), dtype=torch.uint8, generator=generator)
        batch = Batch(torch.arange(IMAGES) + 10 * number, pixels, torch.arange(IMAGES) % 4)
        views = make_views(batch, config, epoch=0, step=number, rows=world.rows)
        measured = stepper.step(
            replace(views, images=views.images.double()),
            threat=config.threat.threat(),
            noise=Noise(3, batch.samples[world.rows]).at("train", 0),
            epoch=0,
            generator_seed=0,
        )
        found |= {f"{key} {number}": value for key, value in measured.items()}
        if number == 2:
            loss.end_epoch()
    return found | network.state_dict() | {f"loss {key}": value for key, value in loss.named_buffers()}


def training(folder: Path, world: World = ALONE) -> None:
    """Train two runs that differ in that one is stopped twice, by the last rank; statistics are each rank's own."""
    recipe = {"dataset": "digits", "model": "wrn-10-1", "loss": "gkl", "train_size": 70, "batch_size": 15, "epochs": 2}
    recipe |= {"averaging": {"per": "step"}, "attack": {"steps": 2}, "probe": {"steps": 1}, "validation_fraction": 0.3}
    config, device = TrainConfig.model_validate(recipe), torch.device("cpu")
    for name, stops in (("whole", ()), ("stopped", (2, 3))):
        run = Run(folder / name)
        for stop in (*stops, None):
            last = world.rank == world.size - 1
            asked = iter([last and step == stop for step in range(1, 100)])
            try:
                train(config, run, device=device, resume=True, world=world, should_stop=asked.__next__)
            except Interrupted:
                assert stop is not None
            else:
                assert stop is None


def refusals(world: World) -> list[str]:
    """Return what ranks are told that have images or a teacher of their own."""
    alike, own = DataHashes(train="alike"), DataHashes(train=f"of rank {world.rank}")
    teachers = {name: {"teacher": Origin(name="net", model_sha256=name)} for name in ("alike", f"{world.rank}")}
    same_inputs(alike, teachers["alike"], world)
    told = []
    for hashes, origins in ((own, {}), (alike, teachers[f"{world.rank}"])):
        with pytest.raises(UserError) as caught:
            same_inputs(hashes, origins, world)
        told.append(str(caught.value))
    return told


def everything(world: World = ALONE) -> dict[str, Found]:
    """Return all that is computed in float64, by name."""
    found = {f"batchnorm, momentum {momentum}": normalization(momentum, world) for momentum in (0.1, None)}
    return found | {name: steps(name, world) for name in STEPS}


def main() -> None:
    """Write what each rank found to ``RANK.pt`` in the folder that is given, and train there."""
    world = world_from_environment()
    folder = Path(sys.argv[1])
    with joined(world, torch.device("cpu")), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "_BUCKET", 3000)  # many messages, between which go those of batch normalisation
        torch.save(everything(world), folder / f"{world.rank}.pt")
        training(folder, world)
        (folder / f"{world.rank}.json").write_text(json.dumps(refusals(world)))
    # A thread of gloo that still drops a tensor while Python ends would abort the process.
    names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names


if __name__ == "__main__":
    main()
