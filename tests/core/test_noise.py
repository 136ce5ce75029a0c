"""Random numbers that belong to samples: exact bits, independence of the batch, and distributions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from robustbench_gkl.core.noise import Noise, mix, permutation

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
PUBLISHED = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)
"""The first outputs of SplitMix64 for the seed 1234567."""


def splitmix64(state: int) -> int:
    """SplitMix64's output for a state, in plain integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def test_the_oracle_gives_the_published_numbers() -> None:
    assert [splitmix64((1234567 + k * GOLDEN) & MASK) for k in range(1, 6)] == list(PUBLISHED)


def test_mix_is_splitmix64() -> None:
    states = torch.tensor([signed((1234567 + k * GOLDEN) & MASK) for k in range(1, 6)])
    assert [value & MASK for value in mix(states).tolist()] == list(PUBLISHED)
    edges = [0, 1, MASK, 1 << 63, (1 << 63) - 1, 0x0123456789ABCDEF]
    found = mix(torch.tensor([signed(edge) for edge in edges]))
    assert [value & MASK for value in found.tolist()] == [splitmix64(edge) for edge in edges]


def plain_bits(seed: int, path: tuple[str | int, ...], index: int, count: int) -> list[int]:
    """The numbers of one sample in plain integers: path to stream, stream and index to key, key to numbers."""
    digest = hashlib.blake2b(repr((seed, path)).encode(), digest_size=8).digest()
    key = splitmix64((int.from_bytes(digest, "little") + (index + 1) * GOLDEN) & MASK)
    return [splitmix64((key + k * GOLDEN) & MASK) for k in range(1, count + 1)]


@pytest.mark.parametrize("path", [(), ("pgd", 1), ("a", 0, "b")])
def test_bits_against_plain_integers(path: tuple[str | int, ...]) -> None:
    index = [5, 0, 10**12]
    found = Noise(3, torch.tensor(index)).at(*path).bits(4)
    assert [[value & MASK for value in row] for row in found.tolist()] == [plain_bits(3, path, i, 4) for i in index]


def test_numbers_do_not_depend_on_the_batch() -> None:
    index = torch.arange(37)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    whole = Noise(0, index).at("a", 2)
    shuffled = Noise(0, index[order]).at("a", 2)
    for draw in ("bits", "uniform", "normal", "signs"):
        reference = getattr(whole, draw)(3, 4)
        assert torch.equal(getattr(shuffled, draw)(3, 4), reference[order])
        parts = [getattr(Noise(0, part).at("a").at(2), draw)(3, 4) for part in index.split(5)]  # type: ignore[no-untyped-call]
        assert torch.equal(torch.cat(parts), reference)
    assert torch.equal(whole.take(order).integers(9, 2), whole.integers(9, 2)[order])
    assert torch.equal(whole.take(index % 2 == 0).uniform(), whole.uniform()[::2])


def test_a_draw_repeats() -> None:
    noise = Noise(0, torch.arange(4)).at("x")
    first = noise.uniform(5)
    noise.normal(100)
    assert torch.equal(noise.uniform(5), first)


def test_seeds_paths_and_samples_differ() -> None:
    index = torch.arange(50)
    sources = [
        Noise(0, index),
        Noise(1, index),
        Noise(0, index + 50),
        Noise(0, index).at("a"),
        Noise(0, index).at("b"),
        Noise(0, index).at("a", 1),
        Noise(0, index).at("a1"),
        Noise(0, index).at("a", "1"),
        Noise(0, index).at(1, "a"),
        Noise(0, index).at("a", 0),
    ]
    drawn = torch.cat([source.bits(20).flatten() for source in sources])
    assert len(set(drawn.tolist())) == len(drawn)
    uniforms = torch.stack([source.uniform(20).flatten() for source in sources]).double()
    off_diagonal = torch.corrcoef(uniforms) - torch.eye(len(sources), dtype=torch.float64)
    assert float(off_diagonal.abs().max()) < 5 / 1000**0.5


def test_shapes_and_types() -> None:
    noise = Noise(0, torch.arange(3))
    assert noise.uniform().shape == (3,)
    assert noise.normal(2, 5).shape == (3, 2, 5)
    assert {noise.uniform().dtype, noise.normal().dtype, noise.signs().dtype} == {torch.float32}
    assert noise.bits(2).dtype == noise.integers(7, 2).dtype == torch.int64
    assert Noise(0, torch.arange(0)).uniform(2, 3).shape == (0, 2, 3)


class TestDistributions:
    noise = Noise(11, torch.arange(400))

    def test_uniform(self) -> None:
        values = self.noise.uniform(100).numpy()
        assert values.min() >= 0
        assert values.max() < 1
        assert stats.kstest(values.flatten().astype(float), "uniform").pvalue > 0.01
        assert stats.kstest(values[:, 0].astype(float), "uniform").pvalue > 0.01
        assert stats.kstest(values[0].astype(float), "uniform").pvalue > 0.01

    def test_normal(self) -> None:
        values = self.noise.normal(100).double().numpy()
        assert np.isfinite(values).all()
        assert stats.kstest(values.flatten(), "norm").pvalue > 0.01
        neighbours = np.corrcoef(values[:, :-1].flatten(), values[:, 1:].flatten())[0, 1]
        assert abs(neighbours) < 4 / values.size**0.5

    @pytest.mark.parametrize("high", [1, 2, 7, 10, 1000, 2**31])
    def test_integers(self, high: int) -> None:
        values = self.noise.integers(high, 100)
        assert 0 <= int(values.min()) <= int(values.max()) < high
        if high == 2**31:
            assert stats.kstest(values.flatten().double().numpy() / high, "uniform").pvalue > 0.01
        else:
            counts = torch.bincount(values.flatten(), minlength=high).numpy()
            assert high == 1 or stats.chisquare(counts).pvalue > 0.01

    def test_signs(self) -> None:
        values = self.noise.signs(100)
        assert set(values.flatten().tolist()) == {-1.0, 1.0}
        assert stats.binomtest(int((values > 0).sum()), values.numel()).pvalue > 0.01

    def test_each_bit_is_a_coin(self) -> None:
        bits = self.noise.bits(100).flatten()
        for position in range(64):
            ones = int(((bits >> position) & 1).sum())
            assert stats.binomtest(ones, bits.numel()).pvalue > 1e-4


class TestPermutation:
    def test_is_one(self) -> None:
        for n in (0, 1, 2, 1000):
            assert torch.equal(permutation(0, "epoch", n=n).sort().values, torch.arange(n))

    def test_is_a_function_of_seed_and_path(self) -> None:
        assert torch.equal(permutation(3, "epoch", 1, n=100), permutation(3, "epoch", 1, n=100))
        others = [
            permutation(3, "epoch", 2, n=100),
            permutation(4, "epoch", 1, n=100),
            permutation(3, "held", 1, n=100),
        ]
        assert not any(torch.equal(permutation(3, "epoch", 1, n=100), other) for other in others)

    def test_sorts_by_the_numbers_of_its_path(self) -> None:
        """Validation splits and batch orders of runs that exist depend on it."""
        keys = [signed(plain_bits(0, ("permutation", "validation"), i, 1)[0]) for i in range(50)]
        assert permutation(0, "validation", n=50).tolist() == sorted(range(50), key=keys.__getitem__)

    def test_each_order_is_as_likely(self) -> None:
        orders = [tuple(permutation(seed, n=3).tolist()) for seed in range(1200)]
        _, counts = np.unique(orders, axis=0, return_counts=True)
        assert len(counts) == 6
        assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.cuda
def test_cuda_gives_the_same_numbers() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    index = torch.arange(1000)
    here, there = Noise(5, index).at("pgd", 3), Noise(5, index.cuda()).at("pgd", 3)
    assert torch.equal(there.bits(50).cpu(), here.bits(50))
    assert torch.equal(there.uniform(50).cpu(), here.uniform(50))
    assert torch.equal(there.signs(50).cpu(), here.signs(50))
    assert torch.equal(there.integers(9, 50).cpu(), here.integers(9, 50))
    # The float64 logarithms and cosines of two libraries may differ in the last bit before they are rounded.
    torch.testing.assert_close(there.normal(50).cpu(), here.normal(50), rtol=2e-7, atol=1e-7)
