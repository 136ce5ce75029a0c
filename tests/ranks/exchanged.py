"""What each of two ranks holds and what it gets; also the program that torchrun starts for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from robustbench_gkl.ranks import gradients
from robustbench_gkl.ranks.collectives import World, copy_from_leader, joined, sum_over_ranks, world_from_environment


def held(rank: int) -> dict[str, Tensor]:
    """Return tensors of several dtypes and shapes, some of whose values a common dtype would change."""
    return {
        "count": torch.tensor(16777217 + rank),
        "mean": torch.full((2, 3), 0.1) * (rank + 1),
        "prior": torch.full((3,), 1 / 3, dtype=torch.float64) * (rank + 1),
        "half": torch.tensor([1.5 + rank], dtype=torch.bfloat16),
        "every second": (torch.arange(6.0) + rank)[::2],
        "more counts": torch.tensor([[2**40 + 1 + rank]]),
    }


def odd(rank: int) -> dict[str, Tensor]:
    """Return what has no sum, or one that differs in its bits."""
    return {"flags": torch.tensor([rank == 0, True]), "zero": torch.tensor([-0.0, float("nan"), 1.0 + rank])}


class Ignoring(torch.autograd.Function):
    """Gives the first of two tensors back, and no gradient to the second."""

    @staticmethod
    def forward(ctx: Any, used: Tensor, ignored: Tensor) -> Tensor:
        return used.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


def weights() -> dict[str, Tensor]:
    """Return weights in the order of their use, of two dtypes and one of them in channels last."""
    torch.manual_seed(0)
    made = {
        "of rank 0": torch.randn(5),
        "unused": torch.randn(2),
        "ignored": torch.randn(3),
        "of rank 1": torch.randn(6, dtype=torch.float64),
        "first": torch.randn(3, 4, dtype=torch.float64),
        "second": torch.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "third": torch.randn(4, 4, dtype=torch.float64),
        "alike": torch.randn(()),
        "alike, beside it": torch.randn(()),
        "alike, summed up": torch.randn(3),
    }
    return {name: weight.requires_grad_() for name, weight in made.items()}


def value(made: dict[str, Tensor], rank: int) -> Tensor:
    """Return a scalar that depends on the rank, and on some weights on one rank alone."""
    hidden: Tensor = Ignoring.apply(torch.tanh(made["first"] * (rank + 1)) @ made["third"], made["ignored"])
    shared = 3 * (made["alike"] + made["alike, beside it"]) + made["alike, summed up"].sum()
    scale = (made["second"] * torch.arange(4.0).view(2, 2)).square().sum()
    return hidden.sum() * scale + made[f"of rank {rank}"].exp().sum() + shared


def gradients_of(world: World) -> dict[str, object]:
    """Return the summed gradients by name, and how many messages had left when ``first`` had its gradient."""
    made, send = weights(), dist.all_reduce
    sent: list[Tensor] = []
    left: list[int] = []

    def counted(flat: Tensor, **how: Any) -> Any:
        sent.append(flat)
        return send(flat, **how)

    made["first"].register_hook(lambda gradient: left.append(len(sent)))  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", counted)
        patch.setattr(gradients, "_BUCKET", 100)
        *tensors, one, other, repeated = made.values()
        alike = [one, other, repeated]
        summed = gradients.summed_gradients(value(made, world.rank), tensors, world, alike=alike)
    for gradient in summed[len(tensors) :]:
        assert gradient is not None
        gradient.mul_(2)  # as clipping does: each is a tensor of its own
    return {"left": left[0], "sent": len(sent), **dict(zip(made, summed, strict=True))}


def main() -> None:
    """Write the sums, what comes from the leader and summed gradients to ``RANK.pt`` in the folder that is given."""
    world = world_from_environment()
    with joined(world, torch.device("cpu")):
        sums, copies = held(world.rank), held(world.rank) | odd(world.rank)
        sum_over_ranks(list(sums.values()), world)
        copy_from_leader(list(copies.values()), world)
        torch.save(
            {"sums": sums, "copies": copies, "gradients": gradients_of(world)}, Path(sys.argv[1]) / f"{world.rank}.pt"
        )


if __name__ == "__main__":
    main()
