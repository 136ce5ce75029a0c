"""RobustBench's published rows: all of them, exactly."""

from __future__ import annotations

import csv
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from robustbench_gkl.models.external.robustbench_zoo import _EPS
from robustbench_gkl.results.published_models import PublishedModel, published_models, published_source


def find(name: str, dataset: str = "cifar10", norm: str | None = "linf") -> PublishedModel:
    (found,) = [row for row in published_models() if (row.name, row.dataset, row.norm) == (name, dataset, norm)]
    return found


def test_counts() -> None:
    rows = published_models()
    assert len(rows) == 236
    assert Counter((row.dataset, row.norm) for row in rows) == {
        ("cifar10", "linf"): 99,
        ("cifar10", "l2"): 21,
        ("cifar10", None): 23,
        ("cifar100", "linf"): 38,
        ("cifar100", None): 13,
        ("imagenet", "linf"): 30,
        ("imagenet", None): 12,
    }
    assert sum(row.external is not None for row in rows) == 25
    assert sum(row.additional_data for row in rows) == 48
    assert sum(row.unreliable is True for row in rows) == 2
    assert len({(row.dataset, row.norm, row.name) for row in rows}) == len(rows)


def test_one_row_of_each_kind() -> None:
    assert find("Wang2023Better_WRN-70-16", norm="l2") == PublishedModel(
        dataset="cifar10",
        norm="l2",
        eps=Fraction(1, 2),
        name="Wang2023Better_WRN-70-16",
        architecture="WideResNet-70-16",
        clean=95.54,
        autoattack=84.97,
        external=None,
        reported=84.97,
        corruptions=None,
        additional_data=False,
        unreliable=False,
        venue="ICML 2023",
        link="https://arxiv.org/abs/2302.04638",
    )
    corrupted = find("Addepalli2021Towards_WRN34", norm=None)
    assert (corrupted.eps, corrupted.autoattack, corrupted.corruptions) == (None, None, 76.78)


def test_radii_are_exact() -> None:
    assert find("Qin2019Adversarial").eps == Fraction(8, 255)
    assert find("Xiao2020Enhancing").eps == Fraction(31, 1000)
    radii = Counter((row.dataset, row.norm, row.eps) for row in published_models() if row.norm)
    assert radii["cifar10", "linf", Fraction(31, 1000)] == 6
    for (dataset, norm), eps in _EPS.items():  # what robustbench:NAME is evaluated at
        here = {key[2]: count for key, count in radii.items() if key[:2] == (dataset, norm)}
        assert max(here, key=lambda radius: here[radius]) == eps
    assert {(dataset, norm) for dataset, norm, _ in radii} == set(_EPS)


def test_the_best_known_figure() -> None:
    weak = find("Xiao2020Enhancing")
    assert (weak.autoattack, weak.external, weak.best_known, weak.unreliable) == (18.5, 7.4, 7.4, True)
    assert find("Qin2019Adversarial").best_known == 52.84
    assert find("Wang2023Better_WRN-70-16", norm="l2").best_known == 84.97
    assert find("Addepalli2021Towards_WRN34", norm=None).best_known is None
    for row in published_models():
        figures = (row.best_known, row.autoattack, row.clean)
        if row.norm:
            assert None not in figures
            assert sorted(figures, key=lambda figure: figure or 0.0) == list(figures)


def test_source_and_date() -> None:
    source = published_source()
    assert (source.commit, source.date) == ("78fcc9e", "2025-03-31")
    assert "RobustBench/robustbench" in source.source


def test_is_the_reference_row_by_row(shared: Path) -> None:
    path = shared / "reference/robustbench_models.csv"
    if not path.exists():
        pytest.skip("no robustbench_models.csv among the reference data")
    with path.open(newline="", encoding="utf-8") as file:
        reference = list(csv.DictReader(file))
    assert [(row["name"], row["link"]) for row in reference] == [(row.name, row.link) for row in published_models()]
