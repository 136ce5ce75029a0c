"""Two gloo ranks exchange tensors of several dtypes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import torchrun
from exchanged import held, odd


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.slow
def test_no_dtype_touches_the_values_of_another(tmp_path: Path) -> None:
    process = torchrun(Path(__file__).parent / "exchanged.py", tmp_path, cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    first, second = held(0), held(1)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in (first | odd(0)).items():
            copied = found["copies"][name]
            assert (copied.dtype, copied.shape, bits(copied)) == (value.dtype, value.shape, bits(value)), name
        for name, value in found["sums"].items():
            assert torch.equal(value, first[name] + second[name]), name
