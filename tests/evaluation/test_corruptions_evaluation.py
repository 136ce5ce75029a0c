"""Accuracy on corrupted images of models whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from corruption_files import write_folder
from torch import Tensor, nn

from robustbench_gkl.data.corruptions import CorruptionFolder
from robustbench_gkl.evaluation.corruptions import count_correct


class ReadsAPixel(nn.Module):
    """The class is written into the first pixel; batch-norm in training mode would change the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        written: Tensor = self.norm(images)[:, 0, 0, 0]
        return -(255 * written[:, None] - torch.arange(10)).square()


def test_counts_are_the_known_ones(tmp_path: Path) -> None:
    arrays, labels = write_folder(tmp_path, names=("fog", "snow"), m=20, shape=(32, 32, 3))
    right = {"fog": (20, 16, 9, 3, 0), "snow": (0, 1, 2, 3, 20)}
    for name, counts in right.items():
        written = (labels.reshape(5, 20) + (np.arange(20) >= np.array(counts)[:, None])) % 10
        arrays[name][:, 0, 0, 0] = written.reshape(100)
        np.save(tmp_path / f"{name}.npy", arrays[name])
    model, folder, told = ReadsAPixel().train(), CorruptionFolder(tmp_path), []
    device = torch.device("cpu")
    for size in (1, 7, 100):
        assert count_correct(model, folder, n=20, batch_size=size, device=device) == right
    first = {name: tuple(min(count, 10) for count in counts) for name, counts in right.items()}
    found = count_correct(model, folder, n=10, device=device, on_progress=lambda *event: told.append(event))
    assert found == first
    assert model.training
    assert told == [(name, 5 * place + s, 10) for place, name in enumerate(right) for s in range(1, 6)]
