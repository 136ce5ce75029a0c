"""The batch size that is found fastest, and what the journal remembers of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_net import SmallNet, evaluated
from torch import Tensor

from robustbench_gkl.evaluation.batch_size import fastest_batch_size
from robustbench_gkl.results.journal import Journal

CPU = torch.device("cpu")


class Refusing(SmallNet):
    """A net for which batches beyond 32 images are too large."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 32:
            raise torch.OutOfMemoryError
        return super().forward(images)


def test_no_batch_is_larger_than_the_samples_or_than_fits() -> None:
    assert fastest_batch_size(SmallNet(), (1, 8, 8), device=CPU, limit=5) == 5
    assert fastest_batch_size(Refusing(), (1, 8, 8), device=CPU, limit=500) in (16, 32)


def test_the_choice_is_made_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    first = fastest_batch_size(SmallNet(), (1, 8, 8), device=CPU, limit=64, journal=journal)
    assert journal.entries == [{"batch_size": first}]
    assert fastest_batch_size(SmallNet(), (1, 8, 8), device=CPU, limit=2, journal=journal) == first


def test_verdicts_do_not_depend_on_it() -> None:
    found = evaluated(attacks=("pgd:steps=3",), batch_size="auto")  # type: ignore[arg-type]
    assert found.batch_size > 0
    assert found.verdicts().equals(evaluated(attacks=("pgd:steps=3",)).verdicts())


@pytest.mark.parametrize("size", [1, 3])
def test_few_samples(size: int) -> None:
    assert fastest_batch_size(SmallNet(), (1, 8, 8), device=CPU, limit=size) == size
