"""The class prior against the plain mean of each class's predictions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_gkl.losses.class_prior import ClassPrior

K, T = 5, 4.0


def observed(prior: ClassPrior, *, batches: int = 4, seen: int = 4) -> tuple[Tensor, Tensor]:
    """Show the prior some batches, of the first ``seen`` classes only; return all logits and labels."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(batches, 16, K, generator=generator)
    labels = torch.randint(seen, (batches, 16), generator=generator)
    for z, y in zip(logits, labels, strict=True):
        prior.observe(z, y)
    return logits.flatten(0, 1), labels.flatten()


def fresh() -> ClassPrior:
    return ClassPrior(K, temperature=T)


def test_starts_uniform() -> None:
    assert torch.equal(fresh().rows, torch.full((K, K), 1 / K, dtype=torch.float64))


def test_becomes_the_mean_prediction_of_each_class() -> None:
    prior = fresh()
    logits, labels = observed(prior)
    before = prior.rows.clone()
    assert torch.equal(before, fresh().rows)  # during the epoch nothing changes
    prior.end_epoch()
    predictions = F.softmax(logits.double() / T, 1)
    for label in range(4):
        torch.testing.assert_close(prior.rows[label], predictions[labels == label].mean(0), rtol=1e-6, atol=0)
    assert torch.equal(prior.rows[4], before[4])
    torch.testing.assert_close(prior.rows.sum(1), torch.ones(K, dtype=torch.float64))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-7), (torch.float64, 1e-12)])
def test_a_long_epoch_costs_no_digits(dtype: torch.dtype, rtol: float) -> None:
    """Two thousand batches of one class and one prediction: the mean is the prediction, in the logits' precision."""
    prior = fresh()
    logits = torch.tensor([[0.3, -0.1, 0.7, 0.2, 0.5]], dtype=dtype).repeat(8, 1)
    for _ in range(2000):
        prior.observe(logits, torch.zeros(8, dtype=torch.int64))
    prior.end_epoch()
    expected = F.softmax(logits[0] / T, 0).double()
    torch.testing.assert_close(prior.rows[0], expected / expected.sum(), rtol=rtol, atol=0)


def test_rows_have_the_precision_of_the_logits() -> None:
    prior = fresh()
    observed(prior)
    prior.end_epoch()
    labels = torch.tensor([2, 0, 2])
    for dtype in (torch.float32, torch.float64):
        rows = prior(labels, like=torch.empty(0, dtype=dtype))
        assert rows.dtype == dtype
        assert torch.equal(rows, prior.rows[labels].to(dtype))


def test_each_epoch_begins_anew() -> None:
    prior = fresh()
    prior.observe(torch.randn(32, K, generator=torch.Generator().manual_seed(9)), torch.arange(32) % K)
    prior.end_epoch()
    unseen = prior.rows[4].clone()
    observed(prior)
    prior.end_epoch()
    only = fresh()
    observed(only)
    only.end_epoch()
    torch.testing.assert_close(prior.rows[:4], only.rows[:4])
    assert torch.equal(prior.rows[4], unseen)


def test_nothing_observed_changes_nothing() -> None:
    prior = fresh()
    observed(prior)
    prior.end_epoch()
    before = prior.rows.clone()
    prior.end_epoch()
    assert torch.equal(prior.rows, before)


def test_survives_the_state_dict() -> None:
    prior, again = fresh(), fresh()
    observed(prior)
    prior.end_epoch()
    observed(prior, batches=1)
    again.load_state_dict(prior.state_dict())
    for each in (prior, again):
        each.end_epoch()
    assert torch.equal(again.rows, prior.rows)


def test_observing_leaves_no_graph() -> None:
    prior = fresh()
    prior.observe(torch.randn(4, K, requires_grad=True), torch.arange(4))
    assert not prior.observed.requires_grad
