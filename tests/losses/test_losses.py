"""What every registered loss promises, and TRADES, MART and PGD-AT against their formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.losses import LOSSES, Logits, Loss, create_loss
from robustbench_gkl.losses.base import MEMBERS, Member, kl_divergence

B, K = 12, 7

OPTIONS = {"ard": {"alpha": 0.5}, "adaad": {"alpha": 0.5}}
"""Of losses whose published defaults give one of their terms no weight."""

each_loss = pytest.mark.parametrize("name", LOSSES.names())


def batch(*, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 2.0) -> tuple[Logits, Tensor]:
    """Return all logits that there are, and labels."""
    generator = torch.Generator().manual_seed(seed)
    clean = scale * torch.randn(B, K, generator=generator, dtype=torch.float64)
    adv = clean + torch.randn(B, K, generator=generator, dtype=torch.float64)
    labels = torch.randint(K, (B,), generator=generator)
    teacher = [scale * torch.randn(B, K, generator=generator, dtype=torch.float64) for _ in range(2)]
    return Logits(clean, adv, *teacher).map(lambda values: values.to(dtype)), labels


def only(given: Logits, members: Collection[Member]) -> Logits:
    """Return the logits as a step gives them: what is not read is None."""
    return Logits(**{name: value for name, value in given.present().items() if name in members})


def trained(name: str) -> Loss:
    """Return the loss with the state that an epoch leaves behind."""
    loss = create_loss(name, num_classes=K, options=OPTIONS.get(name))
    for seed in range(5):
        given, labels = batch(seed=100 + seed)
        loss.observe(only(given, loss.outer_reads), labels)
    loss.end_epoch()
    return loss


def probabilities(logits: Tensor) -> np.ndarray:
    """Softmax in plain numpy float64."""
    values = np.asarray(logits.detach().double().numpy())
    powers = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


@each_loss
class TestContract:
    def test_outer_is_the_sum_of_the_terms(self, name: str) -> None:
        loss = trained(name)
        inputs = batch()
        outer = loss.outer(*inputs)
        terms = loss.terms(*inputs)
        assert outer.shape == ()
        assert math.isfinite(outer.item())
        assert all(term.shape == () for term in terms.values())
        assert outer.item() == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-6)

    def test_each_term_declares_its_kind(self, name: str) -> None:
        loss = trained(name)
        assert loss.kinds.keys() == loss.terms(*batch()).keys()
        assert set(loss.kinds.values()) <= {"clean", "robust"}

    def test_inner_is_one_value_a_sample(self, name: str) -> None:
        loss = trained(name)
        given, labels = batch()
        whole = loss.inner(given, labels)
        assert whole.shape == (B,)

        def one(row: int) -> Tensor:
            return loss.inner(given.map(lambda values: values[[row]]), labels[[row]])

        torch.testing.assert_close(whole, torch.cat([one(row) for row in range(B)]))

    def test_inner_has_a_slope(self, name: str) -> None:
        loss = trained(name)
        given, labels = batch()
        (slope,) = torch.autograd.grad(loss.inner(given.map(Tensor.requires_grad_), labels).sum(), given.adv)
        assert bool((slope.abs().amax(1) > 0).all())

    def test_gradients_reach_what_is_read_of_the_network(self, name: str) -> None:
        loss = trained(name)
        given, labels = batch()
        outer = loss.outer(given.map(Tensor.requires_grad_), labels)
        members: tuple[Member, ...] = ("clean", "adv")
        gradients = torch.autograd.grad(outer, [given.present()[name] for name in members], allow_unused=True)
        for gradient, member in zip(gradients, members, strict=True):
            reached = gradient is not None and bool((gradient.abs().amax(1) > 0).all())
            assert reached == (member in loss.outer_reads)
            assert gradient is None or bool(gradient.isfinite().all())

    def test_nothing_but_what_it_names_is_read(self, name: str) -> None:
        loss = trained(name)
        given, labels = batch()
        assert torch.equal(loss.outer(only(given, loss.outer_reads), labels), loss.outer(given, labels))
        assert torch.equal(loss.inner(only(given, loss.inner_reads), labels), loss.inner(given, labels))
        loss.observe(only(given, loss.outer_reads), labels)

    def test_all_that_it_names_is_read(self, name: str) -> None:
        loss = trained(name)
        given, labels = batch()
        for member in MEMBERS:
            poisoned = replace(given, **{member: torch.full((B, K), torch.nan)})
            assert bool(loss.outer(poisoned, labels).isnan()) == (member in loss.outer_reads)
            if member in loss.inner_reads:
                assert bool(loss.inner(poisoned, labels).isnan().all())

    def test_state_survives(self, name: str) -> None:
        """Also in the middle of an epoch."""
        loss = trained(name)
        loss.observe(*batch(seed=50))
        again = create_loss(name, num_classes=K, options=OPTIONS.get(name))
        again.load_state_dict(loss.state_dict())
        inputs = batch()
        assert torch.equal(again.outer(*inputs), loss.outer(*inputs))
        for each in (loss, again):
            each.end_epoch()
        assert torch.equal(again.outer(*inputs), loss.outer(*inputs))
        assert torch.equal(again.inner(*inputs), loss.inner(*inputs))

    def test_extreme_logits_give_finite_values_and_gradients(self, name: str) -> None:
        loss = create_loss(name, num_classes=K)
        given, labels = batch(scale=100.0)
        given = replace(given, adv=given.adv * 10).map(Tensor.requires_grad_)
        outer = loss.outer(given, labels)
        outer.backward()  # type: ignore[no-untyped-call]
        assert bool(outer.isfinite())
        assert all(leaf.grad is None or bool(leaf.grad.isfinite().all()) for leaf in given.present().values())

    def test_says_what_it_is(self, name: str) -> None:
        (entry,) = (entry for entry in LOSSES.entries() if entry.name == name)
        assert entry.summary
        assert create_loss(name, num_classes=K).start in ("gaussian", "uniform")

    def test_unknown_options_are_refused(self, name: str) -> None:
        with pytest.raises(UserError, match=f"option of loss {name}"):
            create_loss(name, num_classes=K, options={"no_such_option": 1})


def test_wrong_options_are_refused_in_one_line() -> None:
    for value in ("six", [1], "nan"):
        with pytest.raises(UserError, match="loss trades, option beta") as caught:
            create_loss("trades", num_classes=K, options={"beta": value})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="unknown loss 'trade'; did you mean 'trades'"):
        create_loss("trade", num_classes=K)


def test_pgd_at_and_standard_are_cross_entropies() -> None:
    given, labels = batch(dtype=torch.float64)
    rows = np.arange(B)
    for name, logits in (("pgd-at", given.adv), ("standard", given.clean)):
        plain = -np.log(probabilities(logits)[rows, labels])
        loss = create_loss(name, num_classes=K)
        assert loss.outer(given, labels).item() == pytest.approx(plain.mean(), rel=1e-12)
    inner = create_loss("pgd-at", num_classes=K).inner(given, labels)
    np.testing.assert_allclose(inner.numpy(), -np.log(probabilities(given.adv)[rows, labels]), rtol=1e-12)


def test_trades_is_its_formula() -> None:
    given, labels = batch(dtype=torch.float64)
    p, q = probabilities(given.clean), probabilities(given.adv)
    kl = (p * np.log(p / q)).sum(1)
    loss = create_loss("trades", num_classes=K, options={"beta": 6})
    plain = -np.log(p[np.arange(B), labels]).mean() + 6 * kl.mean()
    assert loss.outer(given, labels).item() == pytest.approx(plain, rel=1e-12)
    np.testing.assert_allclose(loss.inner(given, labels).numpy(), kl, rtol=1e-12)


def test_kl_has_the_known_gradients() -> None:
    """With respect to a: softmax(a) - softmax(z); with respect to z: p_j (log(p_j / q_j) - KL)."""
    given, _ = batch(dtype=torch.float64)
    adv, clean = given.adv.requires_grad_(), given.clean.requires_grad_()
    value = kl_divergence(clean, adv)
    by_adv, by_clean = torch.autograd.grad(value.sum(), [adv, clean])
    p, q = probabilities(clean), probabilities(adv)
    kl = (p * np.log(p / q)).sum(1, keepdims=True)
    np.testing.assert_allclose(by_adv.numpy(), q - p, atol=1e-14)
    np.testing.assert_allclose(by_clean.numpy(), p * (np.log(p / q) - kl), atol=1e-14)


class TestMART:
    def test_is_its_formula(self) -> None:
        given, labels = batch(dtype=torch.float64)
        p, q = probabilities(given.clean), probabilities(given.adv)
        rows = np.arange(B)
        others = q.copy()
        others[rows, labels] = 0
        boosted = -np.log(q[rows, labels]) - np.log(1 - others.max(1))
        weighted = (p * np.log(p / q)).sum(1) * (1 - p[rows, labels])
        loss = create_loss("mart", num_classes=K, options={"beta": 5})
        terms = loss.terms(given, labels)
        assert terms["robust"].item() == pytest.approx(boosted.mean(), rel=1e-12)
        assert terms["kl"].item() == pytest.approx(5 * weighted.mean(), rel=1e-12)

    @pytest.mark.parametrize("gap", [1.0, 20.0, 50.0, 500.0])
    @pytest.mark.parametrize("classes", [2, 5])
    def test_stays_finite_when_a_wrong_class_is_certain(self, gap: float, classes: int) -> None:
        """With one logit of gap and the rest 0, 1 - p = (K - 1) / (exp(gap) + K - 1)."""
        adv = torch.zeros(1, classes)
        adv[0, 1] = gap
        labels = torch.tensor([0])
        adv.requires_grad_()
        robust = create_loss("mart", num_classes=classes).terms(Logits(torch.zeros(1, classes), adv), labels)["robust"]
        log_sum = gap + math.log1p((classes - 1) * math.exp(-gap))
        expected = log_sum - (math.log(classes - 1) - log_sum)
        assert robust.item() == pytest.approx(expected, rel=1e-6)
        (gradient,) = torch.autograd.grad(robust, adv)
        assert bool(gradient.isfinite().all())
        assert gradient[0, 1].item() > 0.4

    def test_gradient(self) -> None:
        given, labels = batch(dtype=torch.float64)
        loss = create_loss("mart", num_classes=K)
        assert torch.autograd.gradcheck(
            lambda z, a: loss.outer(Logits(z, a), labels), (given.clean.requires_grad_(), given.adv.requires_grad_())
        )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def terms(self, adv_logits, clean_logits, labels): ...",
            r"terms must take \(self, logits, labels\), got \(self, adv",
        ),
        ("def observe(self, logits): ...", "observe must take"),
    ],
)
def test_a_loss_of_another_shape_is_refused_when_it_is_registered(body: str, message: str) -> None:
    space: dict[str, object] = {}
    exec(body, space)
    with pytest.raises(UserError, match=message):
        LOSSES.register("shapeless")(type("Shapeless", (Loss,), space))
    with pytest.raises(UserError, match="derived from Loss"):
        LOSSES.register("shapeless")(int)  # type: ignore[arg-type]
    assert "shapeless" not in LOSSES.names()
