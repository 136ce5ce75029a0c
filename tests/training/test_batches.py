from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.data import ImageSet
from robustbench_gkl.data.synthetic import SyntheticImages
from robustbench_gkl.training import batches as module
from robustbench_gkl.training.batches import Batch, Batches

CPU = torch.device("cpu")


def numbered(count: int, classes: int = 5) -> ImageSet:
    """Images whose pixels and labels tell their position."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).clone()
    return ImageSet(images, torch.arange(count) % classes, tuple("abcde"[:classes]))


def generated(folder: Path, count: int = 50) -> SyntheticImages:
    images = (100 + np.arange(count, dtype=np.uint8))[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    np.savez(folder / "more.npz", image=images, label=np.arange(count) % 5)
    return SyntheticImages([folder / "more.npz"], shape=(3, 4, 4), num_classes=5)


def check(batch: Batch) -> None:
    """Samples, pixels and labels must belong together."""
    pixels = batch.images[:, 0, 0, 0].long()
    real = batch.samples < 23
    assert torch.equal(pixels[real], batch.samples[real])
    assert torch.equal(pixels[~real], batch.samples[~real] - 23 + 100)
    assert torch.equal(batch.labels, torch.where(real, batch.samples, batch.samples - 23) % 5)


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_shows_each_image_once_and_leaves_out_the_rest(
    resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not resident:
        monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    source = Batches(numbered(23), batch_size=5, seed=1, device=CPU)
    assert source.steps == 4
    shown = list(source.epoch(0))
    for batch in shown:
        check(batch)
    samples = torch.cat([batch.samples for batch in shown])
    assert len(samples) == 20
    assert len(set(samples.tolist())) == 20
    assert not torch.equal(samples, torch.cat([batch.samples for batch in source.epoch(1)]))


def test_where_the_images_are_kept_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = list(Batches(numbered(23), batch_size=5, seed=1, device=CPU).epoch(3))
    monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    streamed = list(Batches(numbered(23), batch_size=5, seed=1, device=CPU).epoch(3))
    for one, other in zip(resident, streamed, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.samples, other.samples)


def test_an_epoch_can_be_entered_anywhere(tmp_path: Path) -> None:
    for synthetic in (None, generated(tmp_path)):
        source = Batches(numbered(23), batch_size=10, seed=1, device=CPU, synthetic=synthetic, fraction=0.7)
        whole = list(source.epoch(2))
        rest = list(source.epoch(2, first=1))
        assert [b.samples.tolist() for b in rest] == [b.samples.tolist() for b in whole[1:]]


def test_each_batch_has_its_share_of_generated_images(tmp_path: Path) -> None:
    source = Batches(numbered(23), batch_size=10, seed=1, device=CPU, synthetic=generated(tmp_path), fraction=0.75)
    assert source.steps == 3
    for epoch in range(3):
        real = []
        for batch in source.epoch(epoch):
            check(batch)
            assert int((batch.samples >= 23).sum()) == 7
            real += batch.samples[batch.samples < 23].tolist()
        assert len(set(real)) == len(real) == 9
    drawn = torch.cat([b.samples for e in range(40) for b in source.epoch(e)])
    counts = torch.bincount(drawn[drawn >= 23] - 23, minlength=50)
    assert float(counts.float().std()) < 2 * (40 * 21 / 50) ** 0.5
    assert int(counts.min()) > 0


def test_a_share_below_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no generated image at synthetic\.fraction 0\.01"):
        Batches(numbered(23), batch_size=10, seed=1, device=CPU, synthetic=generated(tmp_path), fraction=0.01)


def test_an_abandoned_epoch_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(module, "RESIDENT_BYTES", 0)
    before = threading.active_count()
    epoch = Batches(numbered(23), batch_size=5, seed=1, device=CPU).epoch(0)
    next(iter(epoch))
    del epoch
    assert threading.active_count() == before
