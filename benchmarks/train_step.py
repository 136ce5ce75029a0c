"""One GKL-AWP training step as the published scripts take it, against ours, from one run on one machine.

    python benchmarks/train_step.py [--model wrn-16-2] [--batch 128] [--repeats 5] [--device cpu]

The published way: the clean forward pass again at each attack step, with its graph; AWP on a second model that the
weights are copied to; GKL over (B, K, K) tensors. Each idea is then added in turn, the last line being the package's
own step. Also shown: how much of our step is bare passes through the network, and how far apart the weights are
after ten steps from the same start on the same batches, in the middle of which an epoch ends and the class prior
changes.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.attacks.pgd import ascend
from robustbench_gkl.config.schema import AWPConfig, InnerAttackConfig, OptimizerConfig, TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses import Logits, create_loss
from robustbench_gkl.losses.gkl import GKL, gkl_divergence
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.training.awp import frozen_statistics, perturbed, perturbed_weights, weight_perturbation
from robustbench_gkl.training.crafting import inner_start
from robustbench_gkl.training.folding import FoldedModel
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import Views

CLASSES = 100
STEPS = 5
SAME_STEPS, SAME_BATCH = 10, 16
CONFIG = TrainConfig(
    attack=InnerAttackConfig(budget="high-as-run"),
    awp=AWPConfig(gamma=0.005, start_epoch=1),
    optimizer=OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=5e-4),
)
THREAT = CONFIG.threat.threat()


def naive_gkl(adv: Tensor, clean: Tensor, weights: Tensor, *, alpha: float, beta: float) -> Tensor:
    """GKL over (B, K, K) tensors."""
    pairs = weights[:, :, None] * weights[:, None, :]
    clean_gaps = clean[:, :, None] - clean[:, None, :]
    adv_gaps = adv[:, :, None] - adv[:, None, :]
    mse = 0.25 * (pairs * (clean_gaps - adv_gaps) ** 2).sum() / pairs.sum()
    sce = -(F.softmax(clean.detach(), 1) * F.log_softmax(adv, 1)).sum(1).mean()
    return alpha * sce + beta * mse


def fast_gkl(adv: Tensor, clean: Tensor, weights: Tensor, *, alpha: float, beta: float) -> Tensor:
    """GKL as the package computes it."""
    return gkl_divergence(adv, clean, weights, alpha=alpha, beta=beta)


@dataclass(frozen=True)
class Ideas:
    """Which of our ideas the published way is given."""

    clean_once: bool = False
    awp_in_place: bool = False
    short_loss: bool = False
    channels_last: bool = False


class PublishedStep:
    """The step of the published scripts, in our own words, with some of our ideas.

    ``loss`` keeps the class prior, which is the same in all variants.
    """

    def __init__(self, model: Classifier, ideas: Ideas) -> None:
        self.ideas = ideas
        layout = torch.channels_last if ideas.channels_last else torch.contiguous_format
        self.layout = layout
        self.model = model.to(memory_format=layout)
        self.proxy = copy.deepcopy(self.model)
        self.proxy_optimizer = torch.optim.SGD(self.proxy.parameters(), lr=0.01)
        self.optimizer = build_optimizer(CONFIG.optimizer, self.model)
        loss = create_loss("gkl", num_classes=CLASSES).to(next(model.parameters()).device)
        assert isinstance(loss, GKL)
        self.loss = loss
        self.divergence = fast_gkl if ideas.short_loss else naive_gkl

    def outer(self, model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the clean logits."""
        adv, clean = model(adversarial), model(images)
        robust = self.divergence(adv, clean, self.loss.prior(labels, like=images), alpha=4.0, beta=20.0)
        return F.cross_entropy(clean, labels) + robust, clean

    def craft(self, images: Tensor, labels: Tensor, start: Tensor, eps: float, steps: int) -> Tensor:
        """Return the adversarial images."""
        self.model.eval()
        weights = self.loss.prior(labels, like=images)
        point = start
        clean = self.model(images).detach() if self.ideas.clean_once else None
        for _ in range(steps):
            point = point.detach().requires_grad_()
            target = self.model(images) if clean is None else clean
            value = self.divergence(self.model(point), target, weights, alpha=1.0, beta=1.0)
            (gradient,) = torch.autograd.grad(value, [point])
            point = point.detach() + eps / 2 * gradient.sign()
            point = torch.min(torch.max(point, images - eps), images + eps).clamp(0, 1)
        return point

    def perturbation(self, images: Tensor, adversarial: Tensor, labels: Tensor) -> list[Tensor]:
        """Return AWP's change of each weight."""
        if self.ideas.awp_in_place:
            return weight_perturbation(
                self.model, lambda: self.outer(self.model, images, adversarial, labels)[0], gamma=CONFIG.awp.gamma
            )
        self.proxy.load_state_dict(self.model.state_dict())
        self.proxy.train()
        self.proxy_optimizer.zero_grad()
        (-self.outer(self.proxy, images, adversarial, labels)[0]).backward()  # type: ignore[no-untyped-call]
        self.proxy_optimizer.step()
        changes = []
        for old, new in zip(perturbed_weights(self.model), perturbed_weights(self.proxy), strict=True):
            difference = (new - old).detach()
            changes.append(CONFIG.awp.gamma * old.detach().norm() / (difference.norm() + 1e-20) * difference)
        return changes

    def __call__(self, images: Tensor, labels: Tensor, noise: Noise) -> float:
        """Take a step and return the loss."""
        images = images.contiguous(memory_format=self.layout)
        start = inner_start(images, THREAT, noise.at("start"), start="gaussian")
        adversarial = self.craft(images, labels, start, THREAT.radius, STEPS)
        self.model.train()
        with perturbed(perturbed_weights(self.model), self.perturbation(images, adversarial, labels)):
            value, clean = self.outer(self.model, images, adversarial, labels)
            self.optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.loss.observe(Logits(clean=clean.detach()), labels)
        return value.item()


class OurStep:
    """The package's step."""

    def __init__(self, model: Classifier) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.loss = create_loss("gkl", num_classes=CLASSES).to(next(model.parameters()).device)
        optimizer = build_optimizer(CONFIG.optimizer, self.model)
        self.stepper = Stepper(CONFIG, model=self.model, loss=self.loss, optimizer=optimizer)

    def __call__(self, images: Tensor, labels: Tensor, noise: Noise) -> float:
        """Take a step and return the loss."""
        views = Views(images.contiguous(memory_format=torch.channels_last), labels)
        measured = self.stepper.step(views, threat=THREAT, noise=noise, epoch=0, generator_seed=0)
        return float(measured["loss"])


def bare_passes(model: Classifier, images: Tensor) -> None:
    """Make the passes through the network that a step needs, and nothing else."""
    images = images.contiguous(memory_format=torch.channels_last)
    folded = FoldedModel(model)
    folded.refresh()
    with attack_mode(model):
        with torch.no_grad():
            folded(images)
        ascend(folded, images, THREAT, objective=lambda _, z: z.sum(1), start=images, steps=STEPS, step_size=0.0)
    model.train()
    for _ in range(2):
        with frozen_statistics(model):
            value = model(images).sum() + model(images).sum()
        torch.autograd.grad(value, list(model.parameters()))


def build_steps(start: Classifier) -> dict[str, PublishedStep | OurStep]:
    """Return the steps to compare, each on its own copy of ``start``; each has one idea more than the one before."""
    ideas = [Ideas()]
    for change in ({"clean_once": True}, {"awp_in_place": True}, {"short_loss": True}, {"channels_last": True}):
        ideas.append(replace(ideas[-1], **change))
    names = (
        "as published",
        "+ clean logits once",
        "+ AWP in place",
        "+ loss in O(B K)",
        "+ channels last",
    )
    steps: dict[str, PublishedStep | OurStep] = {}
    for name, given in zip(names, ideas, strict=True):
        steps[name] = PublishedStep(copy.deepcopy(start), given)
    steps["+ folded batch norm (ours)"] = OurStep(copy.deepcopy(start))
    return steps


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_all(calls: dict[str, Callable[[], object]], *, repeats: int, device: torch.device) -> dict[str, float]:
    """Return the shortest time of each call in seconds; the calls take turns, so that all see the same machine.

    With a single thread on the CPU it is the time on the processor, from which other processes take nothing away.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats + 1):
        for name, call in calls.items():
            synchronise(device)
            started = clock()
            call()
            synchronise(device)
            best[name] = min(best[name], clock() - started)
    return best


def weight_gap(first: nn.Module, second: nn.Module, start: nn.Module) -> tuple[float, float]:
    """Return how far apart the weights of two models are, relative to their norm and to the way from ``start``."""
    flat = [torch.cat([p.detach().double().flatten() for p in model.parameters()]) for model in (first, second, start)]
    gap = float((flat[0] - flat[1]).norm())
    return gap / float(flat[0].norm()), gap / float((flat[0] - flat[2]).norm())


Batch = tuple[Tensor, Tensor, Noise]


def compare_results(start: Classifier, batches: list[Batch], dtype: torch.dtype, *, ours: bool) -> None:
    """Train the published way and ours, or the published way in two memory layouts, and print how far apart they end.

    The attack takes signs of gradients, which amplifies rounding: only in float64 can equality be asked for.
    """
    model = copy.deepcopy(start).to(dtype)
    other: PublishedStep | OurStep
    other = OurStep(copy.deepcopy(model)) if ours else PublishedStep(copy.deepcopy(model), Ideas(channels_last=True))
    published = PublishedStep(copy.deepcopy(model), Ideas())
    for number, (images, labels, noise) in enumerate(batches):
        if number == len(batches) // 2:
            published.loss.end_epoch()
            other.loss.end_epoch()
        values = [step(images.to(dtype), labels, noise) for step in (published, other)]
    norm, way = weight_gap(published.model, other.model, model)
    print(
        f"after {len(batches)} steps in {str(dtype).removeprefix('torch.')}, published against "
        f"{'ours' if ours else 'itself in channels last'}: losses {values[0]:.6f} and {values[1]:.6f}, weights "
        f"apart by {norm:.1e} of their norm, {way:.1e} of the way they came"
    )


def main() -> None:
    """Print times, ratios, the share of bare passes and the agreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="wrn-16-2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of timing; 0: none")
    parser.add_argument("--same", type=int, default=SAME_STEPS, help="steps after which results are compared; 0: none")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    start = create_model(options.model, num_classes=CLASSES).to(device)
    batches = []
    for number in range(max(1, options.same)):
        images = torch.rand(options.batch, 3, 32, 32).to(device)
        labels = torch.randint(CLASSES, (options.batch,)).to(device)
        batches.append((images, labels, Noise(0, torch.arange(options.batch, device=device)).at("step", number)))
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; {options.model}, batch "
        f"{options.batch}, {CLASSES} classes, {STEPS} attack steps, AWP, float32"
    )
    if options.repeats:
        print_times(start, batches[0], repeats=options.repeats)
    if options.same:
        few = [
            (images[:SAME_BATCH], labels[:SAME_BATCH], noise.take(torch.arange(SAME_BATCH, device=device)))
            for images, labels, noise in batches
        ]
        compare_results(start, few, torch.float64, ours=True)
        compare_results(start, few, torch.float32, ours=True)
        compare_results(start, few, torch.float32, ours=False)


def print_times(start: Classifier, batch: Batch, *, repeats: int) -> None:
    """Print the time of each step on ``batch``, the ratio of the first to ours, and the share of bare passes."""
    device = batch[0].device
    steps = build_steps(start)
    calls: dict[str, Callable[[], object]] = {
        name: lambda step=step: step(*batch)  # type: ignore[misc]
        for name, step in steps.items()
    }
    ours, bare = list(steps)[-1], "bare passes"
    calls[bare] = lambda: bare_passes(steps[ours].model, batch[0])
    seconds = time_all(calls, repeats=repeats, device=device)
    before = None
    for name in steps:
        gain = "" if before is None else f"  {before / seconds[name]:.2f} x faster than the line above"
        print(f"{name:28} {seconds[name]:8.3f} s{gain}")
        before = seconds[name]
    print(f"ratio {seconds['as published'] / seconds[ours]:.2f}; bare forward and backward passes are ", end="")
    print(f"{100 * seconds[bare] / seconds[ours]:.0f} % of our step ({seconds[bare]:.3f} s)")


if __name__ == "__main__":
    main()
