"""Out of memory: a batch size that was found is halved, one that was given is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

import pytest
import torch
from command_line import CommandLine
from small_net import CHEAP, THREAT, SmallNet, labelled_images
from torch import Tensor

from robustbench_gkl.attacks.search.base import Search
from robustbench_gkl.attacks.search.slots import Space
from robustbench_gkl.attacks.specs.pgd import PGD
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.evaluation.checks.before import check_model
from robustbench_gkl.evaluation.engine import EngineSettings, measure
from robustbench_gkl.evaluation.replay import noted_batch_size
from robustbench_gkl.results.journal import Journal

ROOM = 9


class Crowded(SmallNet):
    """Has memory for ``ROOM`` images in a search, which needs more than the even images by which a size is found."""

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad and len(images) > ROOM and bool((images != 0.5).any()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ],
)
def test_verdicts_are_those_of_any_batch_size(device: str, tmp_path: Path) -> None:
    images, labels = labelled_images(40, model=SmallNet())
    journal = Journal(tmp_path / "journal")
    found = EngineSettings(batch_size="auto")
    got = measure(Crowded(), images, labels, THREAT, CHEAP, found, device=device, journal=journal)
    assert noted_batch_size(journal.own) == got.batch_size
    assert ROOM / 2 < got.batch_size <= ROOM
    plain = measure(SmallNet(), images, labels, THREAT, CHEAP, EngineSettings(batch_size=40))
    assert got.broken_by.tolist() == plain.broken_by.tolist()
    assert got.adv_pred.tolist() == plain.adv_pred.tolist()
    assert [attack.stages[0].attacked for attack in got.attacks] == [
        attack.stages[0].attacked for attack in plain.attacks
    ]


def test_a_batch_size_that_was_given_is_kept() -> None:
    images, labels = labelled_images(40, model=SmallNet())
    with pytest.raises(UserError, match="out of memory with 40 images at a time in pgd-5"):
        measure(Crowded(), images, labels, THREAT, CHEAP[0], EngineSettings(batch_size=40))


class Full(SmallNet):
    """Has no memory for an image that comes alone."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


def test_a_full_device_is_nothing_against_a_model() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        check_model(Full(), *labelled_images(20, model=SmallNet()))


LIVING: WeakSet[Search] = WeakSet()
FOUND: list[int] = []


@dataclass(frozen=True)
class Watched(PGD):
    """PGD that counts the searches that are there when another one begins."""

    name: ClassVar[str] = "watched"

    def search(self, space: Space) -> Search:
        FOUND.append(len(LIVING))
        made = super().search(space)
        LIVING.add(made)
        return made


def test_the_search_that_ran_out_of_memory_gives_its_own_back() -> None:
    images, labels = labelled_images(40, model=SmallNet())
    measure(Crowded(), images, labels, THREAT, [Watched(steps=2)], EngineSettings(batch_size="auto"))
    assert len(FOUND) > 1
    assert not any(FOUND)


@pytest.mark.parametrize(
    "options",
    [
        ("--eps", "0.05", "--batch-size", "auto"),
        ("--eps", "0.05", "--batch-size", 20),
        ("--eps-grid", "0,0.05", "--batch-size", "auto"),
        ("--eps-grid", "0,0.05", "--batch-size", 20),
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_the_checks_before_the_attacks_take_no_larger_batches(
    options: tuple[object, ...], here: Path, gklbench: CommandLine
) -> None:
    (here / "crowded.py").write_text(
        "import torch\n"
        "class Crowded(torch.nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        if len(images) > 40:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "        return super().forward(images)\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return Crowded(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    done = gklbench("eval", "crowded.py:net", "--dataset", "digits", "--n", 60, "--attack", "fgsm", *options)
    assert done.code == 0, done.err
