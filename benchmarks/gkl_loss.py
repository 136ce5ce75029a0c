"""GKL in O(B K) against the formula over all pairs of classes, as the papers print it.

    python benchmarks/gkl_loss.py [--batch 256] [--classes 1000]

Times one forward and backward pass of each, checks that value and gradients agree, and reports the peak of the memory
that torch allocates in each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from peak_memory import peak_memory
from torch import Tensor

from robustbench_gkl.losses.gkl import gkl_divergence

ALPHA, BETA, GAMMA = 4.0, 20.0, 0.4

Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(adv: Tensor, clean: Tensor, weights: Tensor) -> Tensor:
    """GKL as the package computes it."""
    return gkl_divergence(adv, clean, weights, alpha=ALPHA, beta=BETA, gamma=GAMMA)


def naive(adv: Tensor, clean: Tensor, weights: Tensor) -> Tensor:
    """GKL over (B, K, K) tensors."""
    smoothed = weights**GAMMA
    pairs = smoothed[:, :, None] * smoothed[:, None, :]
    clean_gaps = clean[:, :, None] - clean[:, None, :]
    adv_gaps = adv[:, :, None] - adv[:, None, :]
    mse = 0.25 * (pairs * (clean_gaps - adv_gaps) ** 2).sum() / pairs.sum()
    sce = -(F.softmax(clean.detach(), 1) * F.log_softmax(adv, 1)).sum(1).mean()
    return ALPHA * sce + BETA * mse


def measure(function: Divergence, inputs: tuple[Tensor, Tensor, Tensor], *, repeats: int) -> tuple[float, list[Tensor]]:
    """Return the best time of a forward and backward pass in seconds, and value and gradients."""
    adv, clean, weights = inputs
    best, found = float("inf"), []
    for _ in range(repeats):
        leaves = [adv.clone().requires_grad_(), clean.clone().requires_grad_()]
        started = time.perf_counter()
        value = function(leaves[0], leaves[1], weights)
        gradients = torch.autograd.grad(value, leaves)
        best = min(best, time.perf_counter() - started)
        found = [value.detach(), *gradients]
    return best, found


def main() -> None:
    """Print times, their ratio, memory and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--classes", type=int, default=1000)
    options = parser.parse_args()
    torch.manual_seed(0)
    shape = (options.batch, options.classes)
    inputs = (torch.randn(shape), torch.randn(shape), F.softmax(torch.randn(shape), 1))
    fast, fast_results = measure(ours, inputs, repeats=20)
    slow, slow_results = measure(naive, inputs, repeats=2)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, B = {shape[0]}, K = {shape[1]}, float32")
    for name, seconds, function in (("O(B K)", fast, ours), ("(B, K, K)", slow, naive)):
        peak = peak_memory(partial(measure, function, inputs, repeats=1))
        print(f"{name:10} {1e3 * seconds:10.2f} ms {peak / 2**20:10.1f} MiB")
    print(f"ratio      {slow / fast:10.0f}")
    for name, a, b in zip(("value", "adv gradient", "clean gradient"), fast_results, slow_results, strict=True):
        print(f"{name}: largest relative difference {float((a - b).abs().max() / b.abs().max()):.1e}")


if __name__ == "__main__":
    main()
