from __future__ import annotations

import pytest
import torch

from robustbench_gkl.losses import Logits, create_loss

SMOOTHING = 0.1


@pytest.mark.parametrize("name", ["standard", "trades", "gkl", "dkl", "ikl", "pgd-at"])
def test_the_labels_are_smoothed_in_the_outer_cross_entropy_alone(name: str) -> None:
    torch.manual_seed(0)
    adv, clean, labels = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    plain = create_loss(name, num_classes=4)
    smooth = create_loss(name, num_classes=4, label_smoothing=SMOOTHING)
    targets = (1 - SMOOTHING) * torch.eye(4)[labels] + SMOOTHING / 4
    given = Logits(clean=clean, adv=adv)
    logits = adv if name == "pgd-at" else clean
    expected = -(targets * torch.log_softmax(logits, 1)).sum(1).mean()
    before, after = plain.terms(given, labels), smooth.terms(given, labels)
    key = "robust" if name == "pgd-at" else "ce"
    torch.testing.assert_close(after[key], expected)
    for other in set(before) - {key}:
        assert torch.equal(before[other], after[other])
    assert torch.equal(plain.inner(given, labels), smooth.inner(given, labels))
