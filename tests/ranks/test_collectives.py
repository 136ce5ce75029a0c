"""Two gloo ranks exchange tensors of several dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import torchrun
from exchanged import held, odd, value, weights


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks got."""
    folder = tmp_path_factory.mktemp("exchanged")
    process = torchrun(Path(__file__).parent / "exchanged.py", folder, cwd=folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_no_dtype_touches_the_values_of_another(exchanged: list[dict[str, Any]]) -> None:
    first, second = held(0), held(1)
    for found in exchanged:
        for name, expected in (first | odd(0)).items():
            copied = found["copies"][name]
            assert (copied.dtype, copied.shape, bits(copied)) == (expected.dtype, expected.shape, bits(expected)), name
        for name, total in found["sums"].items():
            assert torch.equal(total, first[name] + second[name]), name


@pytest.mark.slow
def test_gradients_are_summed_where_a_rank_has_one_and_leave_before_all_are_there(
    exchanged: list[dict[str, Any]],
) -> None:
    made = weights()
    own = [torch.autograd.grad(value(made, rank), list(made.values()), allow_unused=True) for rank in (0, 1)]
    for name, weight, *parts in zip(made, made.values(), *own, strict=True):
        known = [part for part in parts if part is not None]
        expected = 2 * known[0] if "alike" in name else sum(known) if known else None
        for found in exchanged:
            gradient = found["gradients"][name]
            if expected is None:
                assert gradient is None, name
                continue
            torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0, msg=f"{name}: ".__add__)
            assert gradient.stride() == weight.stride()
    for rank, found in enumerate(exchanged):
        told = found["gradients"]
        assert 0 < told["left"] < told["sent"], rank
        assert torch.equal(told["second"], exchanged[0]["gradients"]["second"])
