"""The family of GKL against the published values, the formula over all pairs, KL's gradients and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_gkl.losses import Logits, create_loss
from robustbench_gkl.losses.base import kl_divergence
from robustbench_gkl.losses.gkl import (
    GKL,
    IKL,
    dkl_divergence,
    gkl_divergence,
    ikl_divergence,
    soft_cross_entropy,
    weighted_mse,
)

CASES = ("case0", "case1", "case2")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

both_precisions = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32"])


def pairwise_gkl(
    adv: Tensor, clean: Tensor, weights: Tensor, *, alpha: float, beta: float, gamma: float, temperature: float
) -> Tensor:
    """GKL as the paper prints it, over (B, K, K) tensors."""
    smoothed = weights**gamma
    pairs = smoothed[:, :, None] * smoothed[:, None, :]
    gaps = (clean[:, :, None] - clean[:, None, :]) - (adv[:, :, None] - adv[:, None, :])
    mse = 0.25 * (pairs * gaps.square()).sum() / pairs.sum()
    target = F.softmax(clean.detach() / temperature, 1)
    sce = -(target * F.log_softmax(adv / temperature, 1)).sum(1).mean()
    return alpha * sce + beta * mse


def random_inputs(*, batch: int = 6, classes: int = 9, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return adversarial and clean logits and row-stochastic weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    clean = 3 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    adv = clean + torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    weights = F.softmax(2 * torch.randn(batch, classes, generator=generator, dtype=torch.float64), 1)
    return adv, clean, weights


def value_and_gradients(
    function: Callable[[Tensor, Tensor], Tensor], adv: Tensor, clean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    adv, clean = adv.detach().clone().requires_grad_(), clean.detach().clone().requires_grad_()
    value = function(adv, clean)
    by_adv, by_clean = torch.autograd.grad(value, [adv, clean])
    return value.detach(), by_adv, by_clean


def assert_near(found: Tensor, expected: Tensor, *, tolerance: float) -> None:
    """Assert that the largest difference is at most ``tolerance`` of the largest entry."""
    expected = expected.double()
    assert float((found.double() - expected).abs().max()) <= tolerance * float(expected.abs().max())


class TestPublishedValues:
    """Inputs, values and gradients of the authors' code."""

    @pytest.fixture(params=CASES)
    def case(self, request: pytest.FixtureRequest, shared: Path) -> dict[str, np.ndarray]:
        with np.load(shared / "reference" / "gkl_values.npz") as file:
            found = {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{request.param}/")}
        assert found
        return found

    def tensors(self, case: dict[str, np.ndarray], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        adv, clean, weights = (
            torch.from_numpy(case[key]).to(dtype) for key in ("logits_adv", "logits_nat", "class_prior_rows")
        )
        return adv, clean, weights

    def test_all_cases_are_covered(self, shared: Path) -> None:
        with np.load(shared / "reference" / "gkl_values.npz") as file:
            assert {key.partition("/")[0] for key in file.files} == set(CASES)

    @both_precisions
    def test_gkl(self, case: dict[str, np.ndarray], dtype: torch.dtype) -> None:
        adv, clean, weights = self.tensors(case, dtype)
        options = {key: float(case[key]) for key in ("alpha", "beta", "gamma", "temperature")}
        found = value_and_gradients(lambda a, z: gkl_divergence(a, z, weights, **options), adv, clean)
        for ours, key in zip(found, ("loss", "grad_adv", "grad_nat"), strict=True):
            assert_near(ours, torch.from_numpy(case[key]), tolerance=TOLERANCE[dtype])

    @both_precisions
    def test_distillation(self, case: dict[str, np.ndarray], dtype: torch.dtype) -> None:
        """The student's logits first, the teacher's second, with weights of each sample."""
        student, teacher, _ = self.tensors(case, dtype)
        weights = F.softmax(teacher / float(case["kd_prior_temperature"]), 1)
        options = {key: float(case[key]) for key in ("alpha", "beta", "gamma", "temperature")}
        value, gradient, _ = value_and_gradients(
            lambda a, z: gkl_divergence(a, z, weights, **options), student, teacher
        )
        assert_near(value, torch.from_numpy(case["kd_samplewise_loss"]), tolerance=TOLERANCE[dtype])
        assert_near(gradient, torch.from_numpy(case["kd_samplewise_grad_student"]), tolerance=TOLERANCE[dtype])

    @both_precisions
    def test_ikl(self, case: dict[str, np.ndarray], dtype: torch.dtype) -> None:
        adv, clean, weights = self.tensors(case, dtype)
        options = {key: float(case[key]) for key in ("alpha", "beta")}
        value, gradient, _ = value_and_gradients(lambda a, z: ikl_divergence(a, z, weights, **options), adv, clean)
        assert_near(value, torch.from_numpy(case["ikl_v1_loss"]), tolerance=TOLERANCE[dtype])
        assert_near(gradient, torch.from_numpy(case["ikl_v1_grad_adv"]), tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("gamma", [0.0, 0.2, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
class TestAgainstAllPairs:
    def test_gkl(self, gamma: float, temperature: float, seed: int) -> None:
        adv, clean, weights = random_inputs(seed=seed)
        options = {"alpha": 4.0, "beta": 20.0, "gamma": gamma, "temperature": temperature}
        found = value_and_gradients(lambda a, z: gkl_divergence(a, z, weights, **options), adv, clean)
        expected = value_and_gradients(lambda a, z: pairwise_gkl(a, z, weights, **options), adv, clean)
        for ours, theirs in zip(found, expected, strict=True):
            assert_near(ours, theirs, tolerance=1e-12)
        single = value_and_gradients(
            lambda a, z: gkl_divergence(a, z, weights.float(), **options), adv.float(), clean.float()
        )
        for ours, theirs in zip(single, expected, strict=True):
            assert_near(ours, theirs, tolerance=1e-5)

    def test_weights_need_no_common_scale(self, gamma: float, temperature: float, seed: int) -> None:
        """The total weight divides them out."""
        adv, clean, weights = random_inputs(seed=seed)
        options = {"alpha": 0.0, "beta": 1.0, "gamma": gamma, "temperature": temperature}
        scaled = gkl_divergence(adv, clean, 7 * weights, **options)
        torch.testing.assert_close(scaled, gkl_divergence(adv, clean, weights, **options))


def test_weighted_mse_of_each_sample() -> None:
    adv, clean, weights = random_inputs()
    for row in range(len(adv)):
        gaps = clean[row] - adv[row]
        expected = 0.25 * sum(
            weights[row, j] * weights[row, k] * (gaps[j] - gaps[k]) ** 2 for j in range(9) for k in range(9)
        )
        torch.testing.assert_close(weighted_mse(adv, clean, weights)[row], torch.as_tensor(expected))


def test_weighted_mse_ignores_a_common_shift() -> None:
    """Softmax does not see it either. Large shifts cost float32 its digits, so the sum must be over differences."""
    adv, clean, weights = (tensor.float() for tensor in random_inputs())
    torch.testing.assert_close(
        weighted_mse(adv, clean + 64, weights), weighted_mse(adv, clean, weights), rtol=1e-4, atol=0
    )
    assert bool((weighted_mse(adv, adv + 3, weights) < 1e-10).all())


class TestDKL:
    def test_has_the_gradients_of_kl_on_both_sides(self) -> None:
        adv, clean, _ = random_inputs(batch=16)
        _, *ours = value_and_gradients(dkl_divergence, adv, clean)
        _, *theirs = value_and_gradients(lambda a, z: kl_divergence(z, a).mean(), adv, clean)
        for found, expected in zip(ours, theirs, strict=True):
            assert float((found - expected).abs().max()) < 1e-9
            assert_near(found, expected, tolerance=1e-9)

    def test_alpha_and_beta_weigh_the_two_sides(self) -> None:
        adv, clean, _ = random_inputs()
        _, by_adv, by_clean = value_and_gradients(lambda a, z: dkl_divergence(a, z, alpha=2.0, beta=3.0), adv, clean)
        _, kl_adv, kl_clean = value_and_gradients(lambda a, z: kl_divergence(z, a).mean(), adv, clean)
        torch.testing.assert_close(by_adv, 2 * kl_adv)
        torch.testing.assert_close(by_clean, 3 * kl_clean)

    def test_the_loss_has_the_gradients_of_trades(self) -> None:
        adv, clean, _ = random_inputs()
        labels = torch.arange(len(adv))
        dkl, trades = create_loss("dkl", num_classes=9), create_loss("trades", num_classes=9)
        ours = value_and_gradients(lambda a, z: dkl.outer(Logits(z, a), labels), adv, clean)
        theirs = value_and_gradients(lambda a, z: trades.outer(Logits(z, a), labels), adv, clean)
        for found, expected in zip(ours[1:], theirs[1:], strict=True):
            torch.testing.assert_close(found, expected)


class TestGradients:
    def test_weighted_mse_and_soft_cross_entropy_by_finite_differences(self) -> None:
        adv, clean, weights = random_inputs()
        adv.requires_grad_()
        clean.requires_grad_()
        assert torch.autograd.gradcheck(lambda a, z: weighted_mse(a, z, weights), (adv, clean))
        target = clean.detach()
        assert torch.autograd.gradcheck(lambda a: soft_cross_entropy(a, target, temperature=4.0), (adv,))

    def test_both_sides_of_gkl_by_finite_differences(self) -> None:
        """The soft cross-entropy hides its teacher, so its side is checked without it."""
        adv, clean, weights = random_inputs()
        adv.requires_grad_()
        clean.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda a, z: gkl_divergence(a, z, weights, alpha=0.0, beta=20.0, gamma=0.4), (adv, clean)
        )
        teacher = clean.detach()
        assert torch.autograd.gradcheck(
            lambda a: gkl_divergence(a, teacher, weights, alpha=4.0, beta=20.0, gamma=0.4), (adv,)
        )

    def test_none_reaches_the_weights(self) -> None:
        adv, clean, weights = random_inputs()
        weights.requires_grad_()
        adv.requires_grad_()
        value = gkl_divergence(adv, clean, weights, alpha=1.0, beta=1.0)
        value = value + ikl_divergence(adv, clean, weights, alpha=1.0, beta=1.0)
        (gradient,) = torch.autograd.grad(value, weights, allow_unused=True)
        assert gradient is None


@pytest.mark.parametrize("name", ["ikl", "gkl"])
class TestClassWise:
    K = 5

    def loss(self, name: str) -> IKL | GKL:
        loss = create_loss(name, num_classes=self.K)
        assert isinstance(loss, (IKL, GKL))
        return loss

    def observed(self, name: str) -> IKL | GKL:
        """Return the loss after an epoch of one batch, in the middle of the next."""
        loss = self.loss(name)
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            loss.end_epoch()
            loss.observe(Logits(clean=torch.randn(16, self.K, generator=generator)), torch.arange(16) % self.K)
        return loss

    def test_serves_each_sample_the_row_of_its_class(self, name: str) -> None:
        loss = self.observed(name)
        labels = torch.tensor([3, 0, 3])
        adv, clean, _ = random_inputs(batch=3, classes=self.K)
        weights = loss.prior.rows[labels]
        assert not torch.equal(weights[0], weights[1])
        if name == "gkl":
            expected = gkl_divergence(adv, clean, weights, alpha=loss.alpha, beta=loss.beta)
        else:
            expected = ikl_divergence(adv, clean, weights, alpha=loss.alpha, beta=loss.beta)
        terms = loss.terms(Logits(clean, adv), labels)
        assert torch.equal(terms["robust"], expected)
        torch.testing.assert_close(terms["ce"], F.cross_entropy(clean, labels))

    def test_state_of_version_0_1_is_read(self, name: str) -> None:
        """Its prior was two float32 buffers of the loss itself."""
        loss, again = self.observed(name), self.loss(name)
        former = {"prior": loss.prior.rows.float(), "observed": loss.prior.observed.float()}
        again.load_state_dict(former)
        assert torch.equal(again.prior.rows, former["prior"].double())
        assert torch.equal(again.prior.observed, former["observed"].double())
        assert set(loss.state_dict()) == {"prior.rows", "prior.observed"}


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_training_attack_maximises_gkl_of_gamma_1(beta: float) -> None:
    """Each sample's value, whose mean is GKL's where the rows of the prior sum to 1."""
    adv, clean, _ = random_inputs()
    labels = torch.arange(len(adv))
    loss = create_loss("gkl", num_classes=9, options={"gamma": 0.2, "inner_beta": beta})
    assert isinstance(loss, GKL)
    generator = torch.Generator().manual_seed(3)
    loss.prior.rows.copy_(F.softmax(torch.randn(9, 9, generator=generator, dtype=torch.float64), 1))
    expected = gkl_divergence(adv, clean, loss.prior.rows[labels], alpha=1.0, beta=beta)
    torch.testing.assert_close(loss.inner(Logits(clean, adv), labels).mean(), expected)


class LargestOutput(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest number of elements that any operation puts out."""

    numel: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def largest_output(function: Callable[[], object]) -> int:
    watcher = LargestOutput()  # type: ignore[no-untyped-call]
    with watcher:
        function()
    return watcher.numel


@pytest.mark.parametrize("name", ["dkl", "ikl", "gkl"])
def test_nothing_of_size_b_k_k_is_ever_made(name: str) -> None:
    batch, classes = 64, 200
    loss = create_loss(name, num_classes=classes)
    adv = torch.randn(batch, classes, requires_grad=True)
    clean = torch.randn(batch, classes, requires_grad=True)
    labels = torch.randint(classes, (batch,))

    def epoch() -> None:
        loss.inner(Logits(clean.detach(), adv), labels).sum().backward()  # type: ignore[no-untyped-call]
        loss.outer(Logits(clean, adv), labels).backward()  # type: ignore[no-untyped-call]
        loss.observe(Logits(clean, adv), labels)
        loss.end_epoch()

    assert largest_output(epoch) <= max(batch, classes) * classes
    weights = torch.rand(batch, classes)
    options = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0, "temperature": 1.0}
    # The watcher sees what it must: the formula over all pairs does make such tensors.
    assert largest_output(lambda: pairwise_gkl(adv, clean, weights, **options).backward()) == batch * classes**2  # type: ignore[no-untyped-call]
