"""What each of two ranks holds and what it gets; also the program that torchrun starts for it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from robustbench_gkl.ranks.collectives import copy_from_leader, joined, sum_over_ranks, world_from_environment


def held(rank: int) -> dict[str, Tensor]:
    """Return tensors of several dtypes and shapes, some of whose values a common dtype would change."""
    return {
        "count": torch.tensor(16777217 + rank),
        "mean": torch.full((2, 3), 0.1) * (rank + 1),
        "prior": torch.full((3,), 1 / 3, dtype=torch.float64) * (rank + 1),
        "half": torch.tensor([1.5 + rank], dtype=torch.bfloat16),
        "more counts": torch.tensor([[2**40 + 1 + rank]]),
    }


def odd(rank: int) -> dict[str, Tensor]:
    """Return what has no sum, or one that differs in its bits."""
    return {"flags": torch.tensor([rank == 0, True]), "zero": torch.tensor([-0.0, float("nan"), 1.0 + rank])}


def main() -> None:
    """Write the sums and what comes from the leader to ``RANK.pt`` in the folder that is given."""
    world = world_from_environment()
    with joined(world, torch.device("cpu")):
        sums, copies = held(world.rank), held(world.rank) | odd(world.rank)
        sum_over_ranks(list(sums.values()), world)
        copy_from_leader(list(copies.values()), world)
        torch.save({"sums": sums, "copies": copies}, Path(sys.argv[1]) / f"{world.rank}.pt")


if __name__ == "__main__":
    main()
