"""The smoke-test model learns, and learns under attack."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from robustbench_gkl.models import create_model


def test_tiny_cnn_learns_digits_under_attack() -> None:
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target).long()
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    train, test = order[:1437], order[1437:]
    model = create_model("tiny-cnn", num_classes=10, input_shape=(1, 8, 8))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in torch.split(train[torch.randperm(len(train))], 64):
            x, y = images[batch], labels[batch]
            start = (x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
            attacked = (x + (start.detach() + 0.1 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
            optimiser.zero_grad()
            F.cross_entropy(model(attacked), y).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
    assert accuracy > 0.95
