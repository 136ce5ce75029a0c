"""A step of gkl-kd from resnet32x4 to resnet8x4 with bare model calls and with the step written plainly, in turn.

python benchmarks/distillation_step.py [--batch 64] [--repeats 7]

Written plainly is what mdistiller's trainer does: the teacher as it is, in eval mode, and GKL over (B, K, K) tensors.
The bare calls are the teacher's pass, with its batch normalisation folded as ours is, and the student's two passes.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_gkl.config.schema import OptimizerConfig, TrainConfig
from robustbench_gkl.core.machine import processor
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.losses import create_loss
from robustbench_gkl.models import Classifier, create_model
from robustbench_gkl.training.optimizer import build_optimizer
from robustbench_gkl.training.origins import as_teacher
from robustbench_gkl.training.step import Stepper
from robustbench_gkl.training.views import Views

CLASSES = 100
CONFIG = TrainConfig(optimizer=OptimizerConfig(lr=0.05, momentum=0.9, weight_decay=5e-4))
LAST = torch.channels_last


def plain_loss(student: Tensor, teacher: Tensor, labels: Tensor, ramp: float) -> Tensor:
    """CE + ramp (sCE + 16 wMSE) with T 4 and uniform weights, as gkl-kd has them in its first epoch."""
    weights = torch.full_like(teacher, (1 / CLASSES) ** 0.05)
    pairs = weights[:, :, None] * weights[:, None, :]
    gaps = (student[:, :, None] - student[:, None, :]) - (teacher[:, :, None] - teacher[:, None, :])
    mse = 0.25 * (pairs * gaps**2).sum() / pairs.sum()
    soft = -(F.softmax(teacher / 4, 1) * F.log_softmax(student / 4, 1)).sum(1).mean()
    return F.cross_entropy(student, labels) + ramp * (soft + 16 * mse)


def network(name: str) -> Classifier:
    """Return a network of random weights for CIFAR-100's images."""
    return create_model(name, num_classes=CLASSES, input_shape=(3, 32, 32))


def main() -> None:
    """Take the steps in turn and print medians of processor time and of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.manual_seed(0)
    teacher = network("resnet32x4").eval().requires_grad_(False)
    students = [network("resnet8x4").train() for _ in range(3)]
    students[1].to(memory_format=LAST)
    students[2].to(memory_format=LAST)
    folded = as_teacher(network("resnet32x4").eval().requires_grad_(False))
    images, labels = torch.rand(given.batch, 3, 32, 32), torch.randint(CLASSES, (given.batch,))
    optimizers = [build_optimizer(CONFIG.optimizer, student) for student in students]
    loss = create_loss("gkl-kd", num_classes=CLASSES)
    loss.start_epoch(0)
    ramp = 1 / 20  # of the first of 20 epochs
    stepper = Stepper(CONFIG, model=students[1], loss=loss, optimizer=optimizers[1], teacher=folded)
    noise = Noise(0, torch.arange(given.batch))

    def plain() -> None:
        with torch.no_grad():
            taught = teacher(images)
        optimizers[0].zero_grad()
        torch.autograd.backward(plain_loss(students[0](images), taught, labels, ramp))
        optimizers[0].step()

    def ours() -> None:
        views = Views(images.contiguous(memory_format=LAST), labels)
        stepper.step(views, threat=CONFIG.threat.threat(), noise=noise, epoch=0, generator_seed=0)

    def bare() -> None:
        seen = images.contiguous(memory_format=LAST)
        with torch.no_grad():
            folded(seen)
        torch.autograd.backward(students[2](seen).sum())
        students[2].zero_grad()

    seconds: dict[str, list[float]] = {"plain": [], "ours": [], "bare": []}
    for turn in range(given.repeats + 1):
        for name, step in (("plain", plain), ("ours", ours), ("bare", bare)):
            begun = time.process_time()
            step()
            if turn:  # the first only warms up
                seconds[name].append(time.process_time() - begun)
    print(f"{processor()}, {torch.get_num_threads()} threads, batch {given.batch}, medians of {given.repeats}")
    for name, found in seconds.items():
        print(f"{name:6} {statistics.median(found):6.3f} s of processor time")
    for peer in ("bare", "plain"):
        ratios = [one / other for one, other in zip(seconds["ours"], seconds[peer], strict=True)]
        print(f"ours to {peer}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
