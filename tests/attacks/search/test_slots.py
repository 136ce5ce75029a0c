"""What goes between the host and the device, one call for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from device_waits import no_waits

from robustbench_gkl.attacks.hyperplane import water_level
from robustbench_gkl.attacks.search.slots import copy_chosen, fetched

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_fetched_keeps_shapes_and_values(device: str) -> None:
    parts = (torch.randn(5, 3), torch.tensor([True, False, True, False, True]), torch.arange(5), torch.randn(5))
    got = fetched(*(part.to(device) for part in parts))
    for there, here in zip(got, parts, strict=True):
        np.testing.assert_array_equal(there, here.float().numpy())
    (alone,) = fetched(parts[0].to(device))
    np.testing.assert_array_equal(alone, parts[0].numpy())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("some", [False, True])
def test_copy_chosen_writes_the_chosen_rows_alone(device: str, some: bool) -> None:
    target, source = torch.zeros(6, 2, 3, device=device), torch.randn(6, 2, 3, device=device)
    chosen = torch.tensor([True, False, True], device=device)
    slots = torch.tensor([5, 4, 1], device=device) if some else None
    if device == "cuda":
        with no_waits():
            copy_chosen(target, source, chosen, slots)
    else:
        copy_chosen(target, source, chosen, slots)
    written = [5, 1] if some else [0, 2]
    expected = torch.zeros(6, 2, 3)
    expected[written] = source.cpu()[written]
    assert torch.equal(target.cpu(), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_water_level_without_a_look_is_that_with_one() -> None:
    weight, room = torch.randn(200, 48).abs(), torch.rand(200, 48)
    target = (weight * room).sum(1) * torch.linspace(0.01, 0.95, 200)
    there = weight.cuda(), room.cuda(), target.cuda()
    with no_waits():
        level = water_level(*there)
    reached = (weight * torch.minimum(room, level.cpu()[:, None])).sum(1)
    torch.testing.assert_close(reached, target, rtol=1e-2, atol=1e-4)
