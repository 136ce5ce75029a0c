"""Counter-based random numbers that belong to samples.

Every number is a hash of (seed, path, sample index, position). It does not depend on the batch a sample is
in, on the device, or on what was drawn before, so an attack can be stopped, resumed, split over machines or run
with another batch size and still draw the same numbers.

The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, doi 10.1145/2660193.2660195).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15


def _signed(value: int) -> int:
    """Return the 64-bit pattern ``value`` as a signed integer, as torch stores it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(bits: Tensor, by: int) -> Tensor:
    """Return int64 ``bits`` (...) shifted right as if they were unsigned, (...)."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mix(bits: Tensor) -> Tensor:
    """Return SplitMix64's output, (...), for each state in ``bits``, (...) int64; overflow wraps."""
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


def sequence(keys: Tensor, *, count: int, first: Tensor | None = None) -> Tensor:
    """Return (B, count) int64 of 64 random bits each, from the sequences that begin at ``keys``.

    Args:
        keys: (B,), see :meth:`Noise.keys`.
        count: how many of each sequence.
        first: (B,) int64, the place in its sequence from which each sample reads on; None for the beginning.
    """
    positions = torch.arange(1, count + 1, device=keys.device)
    at = positions if first is None else first[:, None] + positions
    return mix(keys[:, None] + at * _signed(_GOLDEN))


@dataclass(frozen=True, eq=False)
class Noise:
    """A source of random numbers for a batch of samples.

    Attributes:
        seed: the run's seed.
        index: (B,) int64, the samples' indices in their data set's split; its device is where numbers are made.
        path: what the numbers are for, such as ``("apgd-ce", restart, step)``; see :meth:`at`.
    """

    seed: int
    index: Tensor
    path: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> Noise:
        """Return the source for a finer purpose. Sources with different paths are independent."""
        return replace(self, path=self.path + path)

    def take(self, rows: Tensor) -> Noise:
        """Return the source of the samples in ``rows``, (B,) bool or (n,) positions into the batch."""
        return replace(self, index=self.index[rows])

    def keys(self) -> Tensor:
        """Return (B,) int64: where each sample's sequence of random bits begins; see :func:`sequence`."""
        digest = hashlib.blake2b(repr((self.seed, self.path)).encode(), digest_size=8).digest()
        stream = _signed(int.from_bytes(digest, "little"))
        return mix(stream + (self.index + 1) * _signed(_GOLDEN))

    def bits(self, *shape: int) -> Tensor:
        """Return (B, *shape) int64 of 64 random bits each."""
        return sequence(self.keys(), count=math.prod(shape)).reshape(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32, uniform on [0, 1)."""
        return _shift(self.bits(*shape), 40).to(torch.float32) / (1 << 24)

    def normal(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32, standard normal (Box-Muller, computed in float64)."""
        bits = self.bits(*shape)
        radius = (_shift(bits, 32).double() + 1) / (1 << 32)
        angle = (bits & 0xFFFFFFFF).double() * (2 * math.pi / (1 << 32))
        return (torch.sqrt(-2 * torch.log(radius)) * torch.cos(angle)).float()

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return (B, *shape) int64, uniform on {0, ..., high - 1}; ``high`` is at most 2^31."""
        return (_shift(self.bits(*shape), 32) * high) >> 32

    def signs(self, *shape: int) -> Tensor:
        """Return (B, *shape) float32 of -1 and 1 with equal chance."""
        return 1 - 2 * _shift(self.bits(*shape), 63).to(torch.float32)


def permutation(seed: int, *path: str | int, n: int) -> Tensor:
    """Return a random order of range(n), (n,) int64 on the CPU, a function of ``seed`` and ``path`` alone."""
    keys = Noise(seed, torch.arange(n)).at("permutation", *path).bits()
    return torch.argsort(keys, stable=True)
