"""Processor time of each stage of AutoAttack, against the bare calls of the model that it makes.

    python benchmarks/attack_overhead.py [--n 300] [--norm linf --eps 2/255] [--threads 1] [--model cnn-a]

A stage runs on what the ones before left standing. Then every batch that it asked for, by size and with or without a
gradient, is timed by itself; with more than one thread each such batch is timed on one, as a thread of a search makes
it. A model that counts is code of its own, so that its searches have threads and never processes. Page faults are
counted too: memory that the C library gives back is mapped anew. The hash is of the verdicts.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import time
from collections import Counter

import torch
from attacks import load, samples
from torch import Tensor, nn

from robustbench_gkl.attacks import parse_attack
from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.core.threat import ThreatModel
from robustbench_gkl.evaluation.engine import EngineSettings, measure

_ROWS = 4000
"""Images put through the model to time one kind of batch, at most."""


class Counted(nn.Module):
    """A model that counts the batches it is asked about, by (images, with a gradient)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: Counter[tuple[int, bool]] = Counter()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W)."""
        logits: Tensor = self.model(images)
        self.batches[len(images), logits.requires_grad] += 1
        return logits


def bare_seconds(model: nn.Module, images: Tensor, batches: Counter[tuple[int, bool]]) -> float:
    """Return the processor seconds of ``batches`` of ``images`` (N, C, H, W) with nothing around them."""
    total = 0.0
    with attack_mode(model):
        for (size, gradient), count in batches.items():
            part = images[torch.arange(size) % len(images)]

            def call(part: Tensor = part, gradient: bool = gradient) -> None:
                with torch.set_grad_enabled(gradient):
                    leaf = part.detach().requires_grad_(gradient)
                    logits = model(leaf)
                if gradient:
                    torch.autograd.grad(logits.sum(), leaf)

            call()
            repeats = min(count, -(-_ROWS // size))
            began = time.process_time()
            for _ in range(repeats):
                call()
            total += (time.process_time() - began) * count / repeats
    return total


def main() -> None:
    """Print a line a stage, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["cnn-a", "resnet18"], default="cnn-a")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = load(options.model)
    images, labels = samples(model, options.n, correct=options.model == "resnet18")
    threat, standing = ThreatModel(options.norm, options.eps), torch.arange(len(labels))
    sums = [0.0, 0.0]
    for stage in parse_attack("autoattack").stages(threat, num_classes=10):
        counted = Counted(model)
        torch.set_num_threads(options.threads)
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        found = measure(counted, images[standing], labels[standing], threat, [stage], EngineSettings(), index=standing)
        seconds = time.process_time() - began
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        torch.set_num_threads(1)
        bare = bare_seconds(model, images, counted.batches)
        verdicts = hashlib.sha256(repr((standing.tolist(), found.standing.tolist(), found.adv_pred.tolist())).encode())
        standing = standing[torch.from_numpy(found.standing)]
        print(
            f"{stage.name:8} {seconds:7.2f} s, bare {bare:7.2f} s, {seconds / bare:.2f} times; {faults:,} page faults; "
            f"{len(standing)} standing, verdicts {verdicts.hexdigest()[:10]}",
            flush=True,
        )
        sums = [sums[0] + seconds, sums[1] + bare]
    print(f"{'all':8} {sums[0]:7.2f} s, bare {sums[1]:7.2f} s, {sums[0] / sums[1]:.2f} times")


if __name__ == "__main__":
    main()
