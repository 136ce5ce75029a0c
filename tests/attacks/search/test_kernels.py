"""The compiled steps against those in torch and in float64, and where they are taken."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from small_net import evaluated
from torch import Tensor

from robustbench_gkl.attacks.fab import FABSearch
from robustbench_gkl.attacks.search import compiled
from robustbench_gkl.attacks.search.compiled import with_kernels
from robustbench_gkl.attacks.search.slots import Space
from robustbench_gkl.attacks.specs.fab import BETA, TargetedFAB
from robustbench_gkl.core.threat import ThreatModel

KERNELS = "robustbench_gkl.attacks.search.kernels"
EPS = {"linf": "8/255", "l2": "1/2", "l1": "12"}
SHAPE = (3, 20, 20)  # more numbers than one piece of a sum
CASES = ("dense", "sparse", "binary", "flat", "beyond reach", "at the original", "on the boundary")


@pytest.fixture
def kernels() -> ModuleType:
    pytest.importorskip("numba")
    return importlib.import_module(KERNELS)


def problem(case: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return points and originals (8, *SHAPE), values (8,) and gradients (8, *SHAPE)."""
    generator = torch.Generator().manual_seed(1)
    origin = torch.rand(8, *SHAPE, generator=generator)
    if case == "binary":
        origin = origin.round()
    point = (origin + 0.05 * torch.randn(8, *SHAPE, generator=generator)).clamp(0, 1)
    if case == "at the original":
        point = origin.clone()
    gradient = torch.randn(8, *SHAPE, generator=generator)
    if case == "sparse":
        gradient *= torch.rand(8, *SHAPE, generator=generator) > 0.9
    if case == "flat":
        gradient.zero_()
    reach = gradient.flatten(1).abs().sum(1)
    value = reach * torch.linspace(-0.2, 0.2, 8)
    if case == "beyond reach":
        value = 3 * reach * torch.tensor([-1.0, 1.0]).repeat(4)
    if case == "on the boundary":
        value = torch.zeros(8)
    return point, origin, value, gradient


def search_for(norm: str, kernels: ModuleType | None = None) -> FABSearch:
    space = Space(10, SHAPE, 4, ThreatModel(norm, EPS[norm]), torch.device("cpu"), kernels)
    return FABSearch(space, steps=3, targeted=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_step_of_fab_is_that_of_torch(kernels: ModuleType, norm: str, case: str) -> None:
    point, origin, value, gradient = problem(case)
    search, slots, places = search_for(norm), np.array([9, 0, 4, 5, 2]), np.array([7, 0, 2, 6, 4])
    search.point.fill_(0.3)
    search.point[slots], search.origin[slots] = point[places], origin[places]
    before, distance = search.point.clone(), search.distance.clone()
    search.step_compiled(kernels, slots, value, gradient, places)
    far = 2e-5 if norm == "l1" else 1e-6
    x, x0, w = (images.flatten(1).double() for images in (point, origin, gradient))
    for slot, place in zip(slots, places, strict=True):
        # One row at a time: in torch the rows of a batch go on until the last of them needs no more sums.
        row = [place]
        ahead, length = search.stepped(x[row], x0[row], value[row].double(), w[row])
        torch.testing.assert_close(search.point[slot].flatten().double(), ahead[0], atol=far, rtol=0)
        torch.testing.assert_close(search.distance[slot].double(), length[0], atol=far, rtol=1e-5)
    others = np.setdiff1d(np.arange(10), slots)
    assert torch.equal(search.point[others], before[others])
    assert torch.equal(search.distance[others], distance[others])


def test_points_are_drawn_back_as_by_torch(kernels: ModuleType) -> None:
    point, origin, distance, _ = problem("binary")
    expected = torch.cat([point[:3].lerp(origin[:3], 1 - BETA), point[3:]])
    lengths = torch.cat([distance[:3] * BETA, distance[3:]])
    rows = (images.view(8, -1).numpy() for images in (point, origin))
    kernels.draw_back(*rows, distance.numpy(), np.arange(3), BETA)
    torch.testing.assert_close(point, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(distance, lengths)
    assert float(point.min()) >= 0
    assert float(point.max()) <= 1


def whole(slots: int = 1000, *, device: str = "cpu") -> Space:
    return Space(slots, (3, 32, 32), 10, ThreatModel("linf", "2/255"), torch.device(device))


def test_only_long_searches_on_a_cpu_get_kernels(kernels: ModuleType) -> None:
    attack = TargetedFAB()
    assert with_kernels(whole(), attack).kernels is kernels
    assert with_kernels(whole(), attack).slots == 1000
    assert with_kernels(whole(2), attack).kernels is None
    assert with_kernels(whole(device="meta"), attack).kernels is None


@pytest.fixture(params=["absent", "broken", "switched off"])
def without_numba(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "switched off":
        broken: Any = None if request.param == "absent" else ModuleType("numba")
        monkeypatch.setitem(sys.modules, "numba", broken)
    else:
        monkeypatch.setattr(pytest.importorskip("numba").config, "DISABLE_JIT", 1)
    monkeypatch.delitem(sys.modules, KERNELS, raising=False)
    monkeypatch.delattr("robustbench_gkl.attacks.search.kernels", raising=False)


@pytest.mark.usefixtures("without_numba")
def test_without_numba_steps_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LEAST_GAIN", 0.0)
    assert with_kernels(whole(), TargetedFAB()).kernels is None
    assert evaluated(attacks=("fab-t:steps=3",)).standing.sum() < 60


@pytest.mark.parametrize("attack", ["fab-t:steps=20", "fab:steps=10,restarts=2"])
def test_verdicts_are_those_of_torch(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    by_torch = evaluated(attacks=(attack,))
    assert 0 < by_torch.standing.sum() < 50
    monkeypatch.setattr(compiled, "LEAST_GAIN", 0.0)
    monkeypatch.delattr(FABSearch, "stepped")  # so that no step is torch's
    by_kernels = evaluated(attacks=(attack,))
    np.testing.assert_array_equal(by_kernels.standing, by_torch.standing)
    np.testing.assert_array_equal(by_kernels.adv_pred, by_torch.adv_pred)


def test_kernels_need_no_folder_for_a_cache(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    (tmp_path / "kernels.py").write_text(Path(compiled.__file__).with_name("kernels.py").read_text())
    (tmp_path / "__pycache__").touch()  # a file, so no folder can be made
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "HOME": os.devnull, "XDG_CACHE_HOME": os.devnull}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import kernels; print(kernels.fab_step.stats.cache_path)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


def doubled(numbers: np.ndarray) -> None:
    numbers *= 2


def test_a_damaged_cache_is_none(kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    for _ in range(2):
        numbers = np.ones(3)
        kernels._kernel("f8[:]")(doubled)(numbers)
        assert numbers.tolist() == [2, 2, 2]
        (index,) = tmp_path.rglob("*.nbi")
        index.write_bytes(b"")
