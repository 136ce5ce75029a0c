"""Training steps of two ranks: gradients summed while the backward pass goes on, against one message after it.

    python benchmarks/train_ranks.py [--model resnet18] [--loss standard] [--awp] [--batch 64] [--pairs 5]

torchrun starts the ranks, by gloo on the CPU, each with one thread; started under torchrun, on several hosts say, the
script is one of the ranks. Images are CIFAR-10's from the folder of reference data beside the checkout. Both ways take
turns, each on its own copy of the model, and end with the same weights but for the rounding of AWP's norms. Printed are
medians over the pairs of steps, of the slowest rank in each step, and what a step sends. A processor that other work
shares hides what overlap gains: a rank that has no turn cannot send either.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.data import load_dataset
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.ranks.collectives import ALONE, World, joined, sum_over_ranks, world_from_environment
from robustbench_gkl.ranks.gradients import summed_gradients
from robustbench_gkl.training import awp, step
from robustbench_gkl.training.batches import Batch, Batches
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import make_views

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "cifar10-jpeg-12k.npz"


def after_the_pass(
    value: Tensor, weights: Sequence[Tensor], world: World, *, alike: Sequence[Tensor] = ()
) -> list[Tensor | None]:
    """Return what ``summed_gradients`` returns, by one message when all gradients are there."""
    gradients: list[Tensor | None] = list(torch.autograd.grad(value, [*weights, *alike], allow_unused=True))
    sum_over_ranks([gradient for gradient in gradients[: len(weights)] if gradient is not None], world)
    return gradients


class Sent:
    """Messages between ranks, counted."""

    def __init__(self) -> None:
        self.messages = self.bytes = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count in the block."""

        def counting(send: Callable[..., Any]) -> Callable[..., Any]:
            def call(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
                self.messages += 1
                self.bytes += tensor.nbytes
                return send(tensor, *arguments, **options)

            return call

        with ExitStack() as stack:
            for name in ("all_reduce", "broadcast"):
                stack.enter_context(patch.object(dist, name, counting(getattr(dist, name))))
            yield


class Way:
    """One way to take steps, with a model of its own.

    Attributes:
        wall, cpu: seconds of each step on this rank.
    """

    def __init__(self, config: TrainConfig, start: Classifier, world: World, summed: Callable[..., Any]) -> None:
        self.config, self.world, self._summed = config, world, summed
        self.model = copy.deepcopy(start)
        loss = create_loss(config.loss, num_classes=start.num_classes)
        optimizer = build_optimizer(config.optimizer, self.model, loss)
        self.stepper = Stepper(config, model=self.model, loss=loss, optimizer=optimizer, world=world)
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def step(self, batch: Batch, number: int) -> None:
        """Take the ``number``-th step, which all ranks begin together."""
        rows = self.world.rows
        views = make_views(batch, self.config, epoch=0, step=number, rows=rows)
        noise = Noise(0, batch.samples[rows]).at("train", 0)
        dist.barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        with patch.object(step, "summed_gradients", self._summed), patch.object(awp, "summed_gradients", self._summed):
            self.stepper.step(views, threat=self.config.threat.threat(), noise=noise, epoch=0, generator_seed=0)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def work(options: argparse.Namespace, world: World) -> None:
    """Take all steps on this rank; rank 0 prints."""
    images = load_dataset(f"npz:{DATA}").load("train")
    values = {"model": options.model, "loss": options.loss, "attack": {"steps": options.attack_steps}}
    values |= {"awp": {"gamma": 0.005 if options.awp else 0.0, "start_epoch": 1}}
    config = TrainConfig.model_validate(values)
    torch.manual_seed(0)
    start = create_model(config.model, num_classes=len(images.classes))
    ways = {
        "after the pass": Way(config, start, world, after_the_pass),
        "during it": Way(config, start, world, summed_gradients),
    }
    sent = {name: Sent() for name in ways}
    batches = Batches(images, batch_size=options.batch, seed=0, device=torch.device("cpu"))
    for number, batch in zip(range(options.pairs + 1), batches.epoch(0), strict=False):
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            with sent[name].counted():
                way.step(batch, number)
    report(ways, sent, options, world, start)


def report(
    ways: dict[str, Way], sent: dict[str, Sent], options: argparse.Namespace, world: World, start: Classifier
) -> None:
    """Print the slowest rank's medians, their ratio, what is sent, and whether the weights are the same."""
    seconds = {}
    for name, way in ways.items():
        table = torch.zeros(2, world.size, options.pairs, dtype=torch.float64)
        table[:, world.rank] = torch.tensor([way.wall[1:], way.cpu[1:]])  # the first step warms up
        sum_over_ranks([table], world)
        seconds[name] = table.amax(1)
    if not world.leads:
        return
    many = sum(weight.numel() for weight in start.parameters())
    print(
        f"torch {torch.__version__}, {world.size} ranks of {torch.get_num_threads()} thread(s), load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {options.model} ({many:,} parameters in "
        f"{len(list(start.parameters()))} tensors), {options.loss}{' with AWP' if options.awp else ''}, batch "
        f"{options.batch}"
    )
    for name, (wall, cpu) in seconds.items():
        steps = options.pairs + 1
        print(
            f"{name:15} {1 / float(wall.median()):7.3f} steps/s, {float(cpu.median()):7.3f} CPU seconds a step, "
            f"{sent[name].messages / steps:6.1f} messages of {sent[name].bytes / steps / 2**20:.1f} MiB a step"
        )
    before, after = (table[0].tolist() for table in seconds.values())
    ratios = sorted(one / other for one, other in zip(before, after, strict=True))
    print(
        f"{statistics.median(ratios):.2f} times as many steps (pairs from {ratios[0]:.2f} to {ratios[-1]:.2f}); "
        f"weights apart by {gap(*ways.values()):.1e} of their norm"
    )


def gap(one: Way, other: Way) -> float:
    """Return how far apart the weights of both are, relative to their norm."""
    flat = [
        torch.cat([weight.detach().double().flatten() for weight in way.model.parameters()]) for way in (one, other)
    ]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


def main() -> None:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--loss", default="standard")
    parser.add_argument("--attack-steps", type=int, default=2)
    parser.add_argument("--awp", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    world = world_from_environment()
    if world == ALONE:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.ranks)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *launcher, *sys.argv], check=True, env=environment)
        return
    with joined(world, torch.device("cpu")):
        work(options, world)


if __name__ == "__main__":
    main()
