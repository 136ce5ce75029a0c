"""Objectives against their formulas in float64."""

from __future__ import annotations

import numpy as np
import torch

from robustbench_gkl.attacks import objectives as o

LOGITS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.arange(20) % 6
TARGETS = (LABELS + 2) % 6


def _rows() -> list[tuple[np.ndarray, int, int]]:
    logits = LOGITS.double().numpy()
    return [(logits[i], int(LABELS[i]), int(TARGETS[i])) for i in range(len(logits))]


def _check(found: torch.Tensor, expected: list[float]) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_cross_entropy() -> None:
    _check(o.cross_entropy(LOGITS, LABELS), [float(np.log(np.exp(z - z[y]).sum())) for z, y, _ in _rows()])


def test_margin_and_its_sign() -> None:
    found = o.margin(LOGITS, LABELS)
    _check(found, [float(np.delete(z, y).max() - z[y]) for z, y, _ in _rows()])
    assert torch.equal(found > 0, LOGITS.argmax(1) != LABELS)


def test_probability_margin() -> None:
    expected = []
    for z, y, _ in _rows():
        p = np.exp(z) / np.exp(z).sum()
        expected.append(float(np.delete(p, y).max() - p[y]))
    _check(o.probability_margin(LOGITS, LABELS), expected)


def test_dlr() -> None:
    expected = []
    for z, y, _ in _rows():
        top = np.sort(z)[::-1]
        expected.append(float((np.delete(z, y).max() - z[y]) / (top[0] - top[2])))
    _check(o.dlr(LOGITS, LABELS), expected)
    _check(o.dlr(7 * LOGITS + 5, LABELS), expected)  # neither shift nor scale matters


def test_targeted_dlr() -> None:
    expected = []
    for z, y, t in _rows():
        top = np.sort(z)[::-1]
        expected.append(float((z[t] - z[y]) / (top[0] - (top[2] + top[3]) / 2)))
    _check(o.targeted_dlr(LOGITS, LABELS, TARGETS), expected)


def test_substitutes_where_classes_are_few() -> None:
    assert o.untargeted("dlr", num_classes=2) is o.margin
    assert o.untargeted("dlr", num_classes=3) is o.dlr
    assert o.targeted(num_classes=3) is o.targeted_margin
    assert o.targeted(num_classes=4) is o.targeted_dlr
