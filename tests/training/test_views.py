from __future__ import annotations

import torch

from robustbench_gkl.config.schema import TrainConfig
from robustbench_gkl.core.noise import Noise
from robustbench_gkl.data import to_unit
from robustbench_gkl.data.augment import augment
from robustbench_gkl.losses import Logits, create_loss
from robustbench_gkl.training.batches import Batch
from robustbench_gkl.training.views import Views, cut_mix, make_views


def a_batch(count: int = 12) -> Batch:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)
    return Batch(torch.arange(count) * 5, images, torch.arange(count) % 4)


def logits(count: int) -> Logits:
    torch.manual_seed(1)
    adv, clean = (torch.randn(count, 4, dtype=torch.float64) for _ in range(2))
    return Logits(clean=clean, adv=adv)


def rows_of(given: Logits, rows: slice) -> Logits:
    return given.map(lambda values: values[rows])


def test_one_view_is_the_augmented_batch() -> None:
    batch = a_batch()
    views = make_views(batch, TrainConfig(augment="crop-flip", seed=3), epoch=2, step=0)
    noise = Noise(3, batch.samples).at("train", 2)
    assert torch.equal(views.images, to_unit(augment(batch.images, name="crop-flip", noise=noise.at("augment"))))
    assert views.images.is_contiguous(memory_format=torch.channels_last)


def test_two_views_double_the_images_and_halve_what_the_second_adds() -> None:
    batch = a_batch()
    config = TrainConfig.model_validate({"augment": "crop-flip", "second_view": {"augment": "autoaugment"}})
    views = make_views(batch, config, epoch=0, step=0)
    assert len(views.images) == 24
    assert not torch.equal(views.images[:12], views.images[12:])
    loss = create_loss("gkl", num_classes=4)
    given = logits(24)
    got = views.terms(loss, given)
    first, second = (loss.terms(rows_of(given, rows), batch.labels) for rows in (slice(12), slice(12, 24)))
    torch.testing.assert_close(got["ce"], (first["ce"] + second["ce"]) / 2)
    torch.testing.assert_close(got["robust"], first["robust"] + 0.5 * second["robust"])
    assert torch.equal(views.inner(loss, given), loss.inner(given, batch.labels.repeat(2)))


def test_cutmix_pastes_one_box_and_shares_the_labels_by_its_area() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 16, 12)
    seen = set()
    for step in range(40):
        mixed = cut_mix(Views(images, torch.arange(8) % 4), seed=1, place=(0, step), chance=1.0)
        again = cut_mix(Views(images, torch.arange(8) % 4), seed=1, place=(0, step), chance=1.0)
        assert torch.equal(mixed.images, again.images)
        assert mixed.other is not None
        changed = (mixed.images != images).any(1)
        if not bool(changed.any()):
            continue
        box = changed.any(0)
        area = box.any(1).sum() * box.any(0).sum()
        assert mixed.share == 1 - int(area) / (16 * 12)
        rows = box.any(1).nonzero().flatten()
        assert len(rows) == int(rows[-1] - rows[0]) + 1
        for row in range(8):
            if bool(changed[row].any()):
                partners = [p for p in range(8) if torch.equal(mixed.images[row][:, box], images[p][:, box])]
                assert int(mixed.other[row]) in {p % 4 for p in partners}
        seen.add(round(mixed.share, 1))
    assert len(seen) > 5


def test_cutmix_mixes_as_often_as_asked() -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    mixed = [cut_mix(Views(images, labels), seed=2, place=(0, s), chance=0.5).other is not None for s in range(400)]
    assert abs(sum(mixed) - 200) < 50


def test_mixed_terms_are_mixed_as_the_labels_are() -> None:
    labels, other = torch.tensor([0, 1, 2]), torch.tensor([2, 2, 0])
    views = Views(torch.rand(3, 1, 8, 8), labels, other=other, share=0.3)
    loss = create_loss("trades", num_classes=4)
    given = logits(3)
    got = views.terms(loss, given)
    soft = 0.3 * torch.eye(4, dtype=torch.float64)[labels] + 0.7 * torch.eye(4, dtype=torch.float64)[other]
    expected = -(soft * torch.log_softmax(given.clean, 1)).sum(1).mean()
    torch.testing.assert_close(got["ce"], expected)
    torch.testing.assert_close(got["robust"], loss.terms(given, labels)["robust"])
    assert torch.equal(views.main_label, other)
