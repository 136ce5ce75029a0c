"""Distillation losses against published values, plain formulas, closed forms and finite differences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.losses import Logits, Loss, create_loss
from robustbench_gkl.losses.dkd import dkd_divergence
from robustbench_gkl.losses.gkl import gkl_divergence
from robustbench_gkl.losses.kd import kd_divergence

CASES = ("case0", "case1", "case2")
PER_CASE = 7
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
B, K = 6, 5

both_precisions = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float64", "float32"])


def batch(*, seed: int = 0, classes: int = K, scale: float = 2.0) -> tuple[Logits, Tensor]:
    """Return all logits that there are, in float64, and labels."""
    generator = torch.Generator().manual_seed(seed)
    members = [scale * torch.randn(B, classes, generator=generator, dtype=torch.float64) for _ in range(4)]
    return Logits(*members), torch.randint(classes, (B,), generator=generator)


def softmax(logits: Tensor, temperature: float = 1.0) -> np.ndarray:
    """Softmax in plain numpy float64."""
    values = np.asarray(logits.detach().double().numpy()) / temperature
    powers = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.asarray((p * np.log(p / q)).sum(1))


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


def all_pairs(student: Tensor, teacher: Tensor, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each sample's mean square error over all pairs of classes, and its sum of weights."""
    s, t = student.detach().numpy(), teacher.detach().numpy()
    pairs = weights[:, :, None] * weights[:, None, :]
    gaps = (t[:, :, None] - t[:, None, :]) - (s[:, :, None] - s[:, None, :])
    return 0.25 * (pairs * gaps**2).sum((1, 2)), pairs.sum((1, 2))


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> float:
    return float(-(softmax(teacher, temperature) * np.log(softmax(student, temperature))).sum(1).mean())


def published(key: str, teacher: Tensor, labels: Tensor, prior: Tensor) -> Callable[[Tensor], Tensor]:
    """Return our divergence that a key of the reference names, as a function of the student's logits."""
    numbers = [(name, float(value)) for name, value in re.findall(r"_([abgT])([\d.]+)", key)]
    given = dict(numbers[:4])  # GKL's fifth is T2
    temperature = given["T"]
    if key.startswith("gkl"):
        weights = prior[labels] if key.startswith("gkl_class") else F.softmax(teacher / numbers[4][1], 1)
        alpha, beta, gamma = given["a"], given["b"], given["g"]
        return lambda s: gkl_divergence(
            s, teacher, weights, alpha=alpha, beta=beta, gamma=gamma, temperature=temperature
        )
    if key.startswith("dkd"):
        return lambda s: dkd_divergence(s, teacher, labels, alpha=given["a"], beta=given["b"], temperature=temperature)
    standardised = key.startswith("kd_standardised")
    return lambda s: kd_divergence(s, teacher, temperature=temperature, standardised=standardised)


class TestPublishedValues:
    """Inputs, values and gradients of the authors' code."""

    @pytest.fixture(params=CASES)
    def case(self, request: pytest.FixtureRequest, shared: Path) -> dict[str, np.ndarray]:
        with np.load(shared / "reference" / "kd_values.npz") as file:
            return {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{request.param}/")}

    def test_all_cases_are_covered(self, shared: Path) -> None:
        with np.load(shared / "reference" / "kd_values.npz") as file:
            assert {key.partition("/")[0] for key in file.files} == set(CASES)

    @both_precisions
    def test_values_and_gradients(self, case: dict[str, np.ndarray], dtype: torch.dtype) -> None:
        inputs = {name: torch.from_numpy(case[name]) for name in ("student", "teacher", "labels", "prior")}
        student, teacher, prior = (inputs[name].to(dtype) for name in ("student", "teacher", "prior"))
        losses = [key.removesuffix("/grad") for key in case if key.endswith("/grad")]
        assert len(losses) == PER_CASE
        for key in losses:
            leaf = student.clone().requires_grad_()
            value = published(key, teacher, inputs["labels"], prior)(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
            assert value.dtype == dtype
            for found, name in ((value.detach(), key), (gradient, f"{key}/grad")):
                expected = torch.from_numpy(case[name])
                gap = float((found.double() - expected).abs().max())
                assert gap <= TOLERANCE[dtype] * float(expected.abs().max()), name


class TestKD:
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_is_its_formula(self, temperature: float) -> None:
        given, labels = batch()
        loss = create_loss("kd", num_classes=K, options={"temperature": temperature})
        terms = loss.terms(given, labels)
        plain = kl(softmax(given.teacher_clean, temperature), softmax(given.clean, temperature)).mean()
        assert terms["ce"].item() == pytest.approx(0.1 * cross_entropy(given.clean, labels), rel=1e-12)
        assert terms["kd"].item() == pytest.approx(0.9 * temperature**2 * plain, rel=1e-12)

    def test_has_the_known_gradient(self) -> None:
        """T (softmax(s / T) - softmax(t / T)) / B."""
        given, _ = batch()
        student = given.clean.requires_grad_()
        (gradient,) = torch.autograd.grad(kd_divergence(student, given.teacher_clean, temperature=4.0), student)
        expected = 4 * (softmax(student, 4.0) - softmax(given.teacher_clean, 4.0)) / B
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-14)

    def test_of_standardised_logits_is_its_formula(self) -> None:
        given, labels = batch()

        def z_scores(logits: Tensor) -> Tensor:
            values = logits.numpy()
            deviation = values.std(1, ddof=1, keepdims=True) + 1e-7
            return torch.from_numpy((values - values.mean(1, keepdims=True)) / deviation)

        terms = create_loss("kd-standardised", num_classes=K).terms(given, labels)
        plain = kl(softmax(z_scores(given.teacher_clean), 2.0), softmax(z_scores(given.clean), 2.0)).mean()
        assert terms["kd"].item() == pytest.approx(9 * 4 * plain, rel=1e-12)
        assert terms["ce"].item() == pytest.approx(0.1 * cross_entropy(given.clean, labels), rel=1e-12)

    def test_standardised_ignores_shift_and_scale(self) -> None:
        given, _ = batch()
        before = kd_divergence(given.clean, given.teacher_clean, temperature=2.0, standardised=True)
        after = kd_divergence(3 * given.clean - 7, 0.2 * given.teacher_clean + 1, temperature=2.0, standardised=True)
        torch.testing.assert_close(after, before, rtol=1e-6, atol=0)

    def test_equal_logits_of_a_sample_give_finite_gradients(self) -> None:
        """Their deviation is 0."""
        student = torch.zeros(2, K, requires_grad=True)
        value = kd_divergence(student, torch.randn(2, K), temperature=2.0, standardised=True)
        (gradient,) = torch.autograd.grad(value, student)
        assert bool(gradient.isfinite().all())


class TestDKD:
    def test_is_its_formula(self) -> None:
        given, labels = batch()
        rows = np.arange(B)
        target, rest = np.zeros(B), np.zeros(B)
        p, q = softmax(given.teacher_clean, 4.0), softmax(given.clean, 4.0)
        for row in rows:
            label = int(labels[row])
            others = [k for k in range(K) if k != label]
            p_y, q_y = p[row, label], q[row, label]
            target[row] = p_y * math.log(p_y / q_y) + (1 - p_y) * math.log((1 - p_y) / (1 - q_y))
            r, s = p[row, others] / (1 - p_y), q[row, others] / (1 - q_y)
            rest[row] = (r * np.log(r / s)).sum()
        loss = create_loss("dkd", num_classes=K)
        loss.start_epoch(19)
        terms = loss.terms(given, labels)
        assert terms["kd"].item() == pytest.approx(16 * (target.mean() + 8 * rest.mean()), rel=1e-12)
        assert terms["ce"].item() == pytest.approx(cross_entropy(given.clean, labels), rel=1e-12)

    def test_is_kd_where_its_second_part_has_kls_weight(self) -> None:
        """One sample, and beta = 1 - p_y of its teacher."""
        given, labels = batch()
        for row in range(B):
            student, teacher, label = given.clean[[row]], given.teacher_clean[[row]], labels[[row]]
            beta = float(1 - softmax(teacher, 4.0)[0, int(label)])
            found = dkd_divergence(student, teacher, label, alpha=1.0, beta=beta, temperature=4.0)
            torch.testing.assert_close(found, kd_divergence(student, teacher, temperature=4.0))

    def test_two_classes_leave_the_target_part(self) -> None:
        given, labels = batch(classes=2)
        student, teacher = given.clean, given.teacher_clean
        found = dkd_divergence(student, teacher, labels, alpha=1.0, beta=8.0, temperature=2.0)
        torch.testing.assert_close(found, kd_divergence(student, teacher, temperature=2.0))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_stays_exact_where_the_label_is_certain(self, dtype: torch.dtype) -> None:
        """1 - p_y is below float32's rounding of 1; the formula through log(1 - p_y) would be infinite or 0."""
        student = torch.tensor([[40.0, 1.0, 0.0]], dtype=dtype, requires_grad=True)
        teacher = torch.tensor([[50.0, 0.0, 2.0]], dtype=dtype)
        value = dkd_divergence(student, teacher, torch.tensor([0]), alpha=0.0, beta=1.0, temperature=1.0)
        r, s = softmax(teacher[:, 1:]), softmax(student[:, 1:])
        assert value.item() == pytest.approx(kl(r, s)[0], rel=1e-5)
        (gradient,) = torch.autograd.grad(value, student)
        np.testing.assert_allclose(gradient[0].numpy(), [0.0, *(s - r)[0]], atol=1e-5)


class TestWarmUp:
    @pytest.mark.parametrize("name", ["dkd", "gkl-kd", "ikl-kd", "dkl-kd"])
    def test_the_teachers_term_grows_linearly(self, name: str) -> None:
        loss = create_loss(name, num_classes=K, options={"warmup": 4})
        inputs = batch()
        seen = []
        for epoch in (0, 1, 3, 4, 100):
            loss.start_epoch(epoch)
            seen.append(loss.terms(*inputs))
        full = seen[-1]["kd"].item()
        assert [terms["kd"].item() / full for terms in seen] == pytest.approx([0.25, 0.5, 1, 1, 1])
        assert len({terms["ce"].item() for terms in seen}) == 1

    def test_none_is_full_weight_at_once(self) -> None:
        inputs = batch()
        loss = create_loss("dkd", num_classes=K, options={"warmup": 0})
        before = loss.terms(*inputs)["kd"]
        loss.start_epoch(0)
        assert torch.equal(loss.terms(*inputs)["kd"], before)
        loss.start_epoch(50)
        assert torch.equal(loss.terms(*inputs)["kd"], before)


def observed(name: str, options: dict[str, Any] | None = None) -> Loss:
    """Return the loss after an epoch of three batches, at full weight."""
    loss = create_loss(name, num_classes=K, options=options)
    for seed in range(3):
        loss.observe(*batch(seed=10 + seed))
    loss.end_epoch()
    loss.start_epoch(99)
    return loss


def plain_prior(temperature: float) -> np.ndarray:
    """Return the class prior of :func:`observed`."""
    total = np.full((K, K), 1e-300)
    for seed in range(3):
        given, labels = batch(seed=10 + seed)
        np.add.at(total, labels.numpy(), softmax(given.teacher_clean, temperature))
    assert (total.sum(1) > 0.5).all()
    return np.asarray(total / total.sum(1, keepdims=True))


class TestGKL:
    @pytest.mark.parametrize("weights", ["class", "sample"])
    @pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
    def test_gkl_is_its_formula(self, weights: str, gamma: float) -> None:
        options = {"weights": weights, "gamma": gamma, "temperature": 3.0, "prior_temperature": 2.0, "beta": 7.0}
        loss = observed("gkl-kd", options)
        given, labels = batch()
        student, teacher = given.clean, given.teacher_clean
        p = plain_prior(2.0)[labels.numpy()] if weights == "class" else softmax(teacher, 2.0)
        errors, totals = all_pairs(student, teacher, p**gamma)
        terms = loss.terms(given, labels)
        plain = soft_cross_entropy(student, teacher, 3.0) + 7 * errors.sum() / totals.sum()
        assert terms["kd"].item() == pytest.approx(plain, rel=1e-12)
        assert terms["ce"].item() == pytest.approx(cross_entropy(student, labels), rel=1e-12)

    @pytest.mark.parametrize("weights", ["class", "sample"])
    def test_ikl_is_its_formula(self, weights: str) -> None:
        options = {"weights": weights, "temperature": 3.0, "prior_temperature": 2.0, "beta": 7.0}
        loss = observed("ikl-kd", options)
        given, labels = batch()
        student, teacher = given.clean, given.teacher_clean
        p = plain_prior(2.0)[labels.numpy()] if weights == "class" else softmax(teacher, 2.0)
        errors, _ = all_pairs(student, teacher, p)
        plain = soft_cross_entropy(student, teacher, 3.0) + 7 * errors.mean()
        assert loss.terms(given, labels)["kd"].item() == pytest.approx(plain, rel=1e-12)

    def test_dkl_has_the_gradient_of_kl(self) -> None:
        given, labels = batch()
        student = given.clean.requires_grad_()
        loss = observed("dkl-kd", {"alpha": 3.0})
        (found,) = torch.autograd.grad(loss.terms(given, labels)["kd"], student)
        taught = kd_divergence(student, given.teacher_clean, temperature=4.0)
        (expected,) = torch.autograd.grad(3 / 16 * taught, student)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("name", ["gkl-kd", "ikl-kd", "gkl-rd", "gkl-rd-adaptive"])
    def test_the_prior_is_the_teachers_and_survives_a_resume(self, name: str) -> None:
        loss = observed(name)
        saved = {key: value.clone() for key, value in loss.state_dict().items()}
        np.testing.assert_allclose(saved["prior.rows"].numpy(), plain_prior(4.0), rtol=1e-12)
        again = create_loss(name, num_classes=K)
        again.load_state_dict(saved)
        again.start_epoch(99)
        inputs = batch()
        assert torch.equal(again.outer(*inputs), loss.outer(*inputs))
        fresh = create_loss(name, num_classes=K)
        fresh.start_epoch(99)
        assert not torch.equal(fresh.outer(*inputs), loss.outer(*inputs))

    def test_sample_wise_weights_keep_no_state(self) -> None:
        assert not observed("gkl-kd", {"weights": "sample"}).state_dict()

    def test_other_weights_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"loss gkl-kd, option weights: .*'class' or 'sample'"):
            create_loss("gkl-kd", num_classes=K, options={"weights": "image"})


class TestRobust:
    def test_ard_is_its_formula(self) -> None:
        given, labels = batch()
        terms = create_loss("ard", num_classes=K, options={"alpha": 0.7, "temperature": 5}).terms(given, labels)
        plain = kl(softmax(given.teacher_clean, 5.0), softmax(given.adv, 5.0)).mean()
        assert terms["robust"].item() == pytest.approx(0.7 * 25 * plain, rel=1e-12)
        assert terms["ce"].item() == pytest.approx(0.3 * cross_entropy(given.clean, labels), rel=1e-12)

    @pytest.mark.parametrize(("name", "options"), [("rslad", {}), ("adaad", {"alpha": 5 / 6})])
    def test_rslad_and_adaad_are_their_formulas(self, name: str, options: dict[str, Any]) -> None:
        given, labels = batch()
        loss = create_loss(name, num_classes=K, options=options)
        at_adv = given.teacher_clean if name == "rslad" else given.teacher_adv
        robust = kl(softmax(at_adv), softmax(given.adv))
        clean = kl(softmax(given.teacher_clean), softmax(given.clean))
        np.testing.assert_allclose(loss.inner(given, labels).numpy(), robust, rtol=1e-12)
        terms = loss.terms(given, labels)
        assert terms["robust"].item() == pytest.approx(5 / 6 * robust.mean(), rel=1e-12)
        assert terms["kd"].item() == pytest.approx(1 / 6 * clean.mean(), rel=1e-12)

    @pytest.mark.parametrize(("name", "of"), [("gkl-rd", "rslad"), ("gkl-rd-adaptive", "adaad")])
    def test_gkl_is_its_formula_under_the_attack_that_it_replaces_kl_in(self, name: str, of: str) -> None:
        given, labels = batch()
        loss = observed(name, {"alpha": 2.0, "beta": 7.0, "gamma": 0.3})
        kl_loss = create_loss(of, num_classes=K)
        assert torch.equal(loss.inner(given, labels), kl_loss.inner(given, labels))
        assert (loss.inner_reads, loss.outer_reads, loss.start) == (
            kl_loss.inner_reads,
            kl_loss.outer_reads,
            kl_loss.start,
        )
        terms = loss.terms(given, labels)
        weights = plain_prior(4.0)[labels.numpy()] ** 0.3
        at_adv = given.teacher_clean if of == "rslad" else given.teacher_adv
        for key, share, student, teacher in (
            ("robust", 5 / 6, given.adv, at_adv),
            ("kd", 1 / 6, given.clean, given.teacher_clean),
        ):
            errors, totals = all_pairs(student, teacher, weights)
            plain = 2 * soft_cross_entropy(student, teacher, 1.0) + 7 * errors.sum() / totals.sum()
            assert terms[key].item() == pytest.approx(share * plain, rel=1e-12)

    def test_gkl_without_its_mean_square_error_has_the_gradients_of_rslad(self) -> None:
        given, labels = batch()
        leaves = [given.clean.requires_grad_(), given.adv.requires_grad_()]
        gkl = create_loss("gkl-rd", num_classes=K, options={"beta": 0.0})
        found = torch.autograd.grad(gkl.outer(given, labels), leaves)
        expected = torch.autograd.grad(create_loss("rslad", num_classes=K).outer(given, labels), leaves)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)

    def test_shares_are_between_0_and_1(self) -> None:
        for name, option in (("ard", "alpha"), ("rslad", "alpha"), ("adaad", "alpha"), ("gkl-rd", "share")):
            with pytest.raises(UserError, match=f"loss {name}, option {option}"):
                create_loss(name, num_classes=K, options={option: 1.5})


@pytest.mark.parametrize(
    "name",
    [
        "kd",
        "kd-standardised",
        "dkd",
        "dkl-kd",
        "ikl-kd",
        "gkl-kd",
        "ard",
        "rslad",
        "adaad",
        "gkl-rd",
        "gkl-rd-adaptive",
    ],
)
def test_gradients_by_finite_differences(name: str) -> None:
    given, labels = batch()
    loss = observed(name)

    def outer(clean: Tensor, adv: Tensor) -> Tensor:
        return loss.outer(Logits(clean, adv, given.teacher_clean, given.teacher_adv), labels)

    assert torch.autograd.gradcheck(outer, (given.clean.requires_grad_(), given.adv.requires_grad_()))
