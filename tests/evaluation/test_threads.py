"""Attacks in several threads: the same verdicts as in one, and an orderly end when something happens in one of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from small_net import CHEAP, THREAT, SmallNet, evaluated, labelled_images
from torch import Tensor, nn

from robustbench_gkl import evaluate
from robustbench_gkl.attacks.model import Model
from robustbench_gkl.attacks.search.base import Search
from robustbench_gkl.attacks.search.slots import Space
from robustbench_gkl.attacks.search.threads import driver_count
from robustbench_gkl.attacks.specs.square import Square
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.apart import processes_for
from robustbench_gkl.models import create_model

N, BATCH = 400, 110


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class _Watched(SmallNet):
    """Keeps the threads in which it was called with a gradient wanted, and may fail at the hundredth such call."""

    def __init__(self, *, fails: BaseException | None = None) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.calls, self.fails = 0, fails

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.threads.add(threading.get_ident())
            self.calls += 1
            if self.fails is not None and self.calls == 100:
                raise self.fails
        return super().forward(images)


def test_two_threads_find_what_one_finds_with_as_many_forward_passes(two_threads: None) -> None:
    together = evaluated(N, batch_size=BATCH)
    torch.set_num_threads(1)
    alone = evaluated(N, batch_size=BATCH)
    assert together.verdicts().drop(columns="distance").equals(alone.verdicts().drop(columns="distance"))
    for attack, other in zip(together.attacks, alone.attacks, strict=True):
        for stage, same in zip(attack.stages, other.stages, strict=True):
            assert stage.forwards == same.forwards  # backward passes depend on who shares a batch


def test_each_thread_has_its_part_and_torch_has_its_threads_back(two_threads: None) -> None:
    model = _Watched()
    images, labels = labelled_images(N, model=model)
    evaluate(model, images, labels, THREAT, CHEAP[:2], batch_size=BATCH)
    assert len(model.threads) >= 2
    assert threading.get_ident() not in model.threads
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [UserError("bad"), KeyboardInterrupt()])
def test_an_error_in_one_thread_ends_all(two_threads: None, error: BaseException) -> None:
    model = _Watched(fails=error)
    images, labels = labelled_images(N, model=model)
    with pytest.raises(type(error)):
        evaluate(model, images, labels, THREAT, "apgd-t:steps=50", batch_size=BATCH)
    assert model.calls < 110
    assert torch.get_num_threads() == 2


def test_few_samples_share_one_batch(two_threads: None) -> None:
    assert [driver_count(torch.device("cpu"), samples) for samples in (1, 95, 96, 1000)] == [1, 1, 2, 2]
    assert driver_count(torch.device("cuda"), 1000) == 1


def test_square_takes_a_few_batches_together_however_many_share_them(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots: list[int] = []
    search = Square.search

    def watched(spec: Square, space: Space) -> Search:
        slots.append(space.slots)
        return search(spec, space)

    monkeypatch.setattr(Square, "search", watched)
    for threads in (2, 7):
        slots.clear()
        torch.set_num_threads(threads)
        evaluated(N, attacks=("square:queries=1",), batch_size=N)
        assert slots == [min(N, -(-4 * N // threads))] * threads


def test_processes_for_known_layers_alone(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(model: Model, *samples: int, device: str = "cpu") -> list[int]:
        return [processes_for(model, torch.device(device), number) for number in samples]

    monkeypatch.setattr("robustbench_gkl.evaluation.apart.can_fork", lambda: True)
    known = create_model("tiny-cnn", num_classes=5, input_shape=(1, 8, 8))
    assert counts(known, 1, 15, 16, 1000) == [1, 1, 2, 2]
    assert counts(known, 1000, device="meta") == [1]
    assert counts(nn.Sequential(nn.Identity(), SmallNet()), 16) == [1]
    assert counts(lambda images: known(images), 16) == [1]
    torch.set_num_threads(5)
    assert counts(known, 16, 24, 40) == [1, 3, 5]  # none has two threads
