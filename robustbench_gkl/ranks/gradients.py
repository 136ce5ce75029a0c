"""Gradients summed over ranks while the backward pass still goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from robustbench_gkl.ranks.collectives import World, copy_from_leader

_BUCKET = 25 << 20
"""Bytes of gradients in one message: few messages, the first of which leaves early."""


def summed_gradients(
    value: Tensor, weights: Sequence[Tensor], world: World, *, alike: Sequence[Tensor] = ()
) -> list[Tensor | None]:
    """Return the gradient of ``value`` at each of ``weights``, summed over all ranks, and that at each of ``alike``.

    The last weights' gradients are under way while those of the first are still computed. A rank whose ``value`` does
    not depend on a weight adds nothing to its sum, which is None if that holds on all ranks.

    Args:
        value: a scalar.
        weights: in the order in which the network uses them, the same on all ranks. Where the backward pass sends
            messages of its own, all ranks must have a gradient for the same ones.
        alike: where the gradient is the same on all ranks, which get that of rank 0, bit for bit.
        world: the processes, which call this together.
    """
    tensors = [*weights, *alike]
    if world.size == 1:
        return list(torch.autograd.grad(value, tensors, allow_unused=True))
    buckets = _Buckets(weights)
    hooks = [w.register_hook(buckets.hook(number)) for number, w in enumerate(weights)]  # type: ignore[no-untyped-call]
    try:
        found = torch.autograd.grad(value, tensors, allow_unused=True)[len(weights) :]
    finally:
        for hook in hooks:
            hook.remove()
    sums = buckets.sums()
    # What autograd gives may share its memory with another gradient, or repeat one number.
    own = [None if one is None else torch.empty_like(w).copy_(one) for w, one in zip(alike, found, strict=True)]
    copy_from_leader([gradient for gradient in own if gradient is not None], world)
    return [*sums, *own]


class _Buckets:
    """Gradients of all weights on their way; buckets leave in one order, so that those of all ranks meet."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._all = [_Bucket(part) for part in _parts(weights)]
        self._waiting = self._all.copy()
        self._places = [(bucket, place) for bucket in self._all for place in range(len(bucket.parts))][::-1]

    def hook(self, number: int) -> Callable[[Tensor | None], Tensor | None]:
        """Return what takes the gradient of the ``number``-th weight and returns where its sum will be.

        A function that gives no gradient for a weight that it uses gives None, which counts as one that is missing.
        """
        bucket, place = self._places[number]

        def put(gradient: Tensor | None) -> Tensor | None:
            if gradient is None:
                return None
            part = bucket.put(place, gradient)
            while self._waiting and self._waiting[0].full:
                self._waiting.pop(0).send()
            return part

        return put

    def sums(self) -> list[Tensor | None]:
        """Return the sums, in the order of the weights; called when the backward pass is over."""
        for bucket in self._waiting:
            bucket.send()
        return [part for bucket in self._all for part in bucket.sums()][::-1]


class _Bucket:
    """Gradients in one flat tensor, and behind them, for each, on how many ranks there is one.

    Attributes:
        parts: of the flat tensor, each in the shape and the memory layout of its weight.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        sizes = [weight.numel() for weight in weights]
        self._flat = weights[0].new_empty(sum(sizes) + len(sizes))
        *flat, self._counts = torch.split(self._flat, [*sizes, len(sizes)])
        self.parts: list[Tensor] = [
            part.as_strided(weight.shape, torch.empty_like(weight, device="meta").stride())
            for part, weight in zip(flat, weights, strict=True)
        ]
        self._missing = set(range(len(sizes)))

    @property
    def full(self) -> bool:
        """Whether all gradients are there."""
        return not self._missing

    def put(self, place: int, gradient: Tensor) -> Tensor:
        """Copy a gradient to its place and return that."""
        self._missing.discard(place)
        part: Tensor = self.parts[place].copy_(gradient)
        return part

    def send(self) -> None:
        """Begin to sum; a gradient that is missing counts as zero."""
        self._counts.fill_(1)
        for place in self._missing:
            self.parts[place].zero_()
            self._counts[place].zero_()
        self._work = dist.all_reduce(self._flat, async_op=True)

    def sums(self) -> Iterator[Tensor | None]:
        """Yield each sum; None where no rank has a gradient, for which alone a device is waited for."""
        self._work.wait()
        for place, part in enumerate(self.parts):
            yield None if place in self._missing and not self._counts[place] else part


def _parts(weights: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return ``weights`` from the last to the first, in parts of one dtype and device that fit into a bucket."""
    parts: list[list[Tensor]] = []
    room = 0
    for weight in reversed(weights):
        room -= weight.nbytes
        if not parts or room < 0 or (weight.dtype, weight.device) != (parts[-1][0].dtype, parts[-1][0].device):
            parts.append([])
            room = _BUCKET - weight.nbytes
        parts[-1].append(weight)
    return parts
