"""What an evaluation of one of RobustBench's models prints of the published figures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from synthetic_records import make_record, outcome

from robustbench_gkl.core.exact import Norm
from robustbench_gkl.report.published import published_lines
from robustbench_gkl.report.record import record_lines
from robustbench_gkl.results import ResultStore
from robustbench_gkl.results.record import Record

NAME = "Carmon2019Unlabeled"
"""Published: clean 89.69 %, AutoAttack 59.53 %."""


def _record(
    store: ResultStore,
    *,
    stands: int,
    broken: int,
    clean_wrong: int,
    attacks: Sequence[str] = ("autoattack",),
    dataset: str = "cifar10",
    eps: str = "8/255",
    norm: Norm = "linf",
    name: str = NAME,
    partial: bool = False,
) -> Record:
    fallen = [*outcome(stands=stands, broken=broken, by=attacks[0]), *["clean"] * clean_wrong]
    record = make_record(
        store, fallen, model="theirs", attacks=attacks, dataset=dataset, norm=norm, eps=eps, partial=partial
    )
    source = {"kind": "robustbench", "argument": f"robustbench:{name}", "zoo": f"cifar10/Linf/{name}"}
    return record.model_copy(update={"model": record.model.model_copy(update={"source": source})})


def test_figures_within_the_intervals_are_said_to_be(store: ResultStore) -> None:
    record = _record(store, stands=60, broken=30, clean_wrong=10)
    lines = published_lines(record)
    assert "clean 89.69 %, AutoAttack 59.53 %" in lines[0]
    # Wilson's interval of 90 and of 60 of 100, by hand.
    assert lines[1].strip().startswith("clean: our 95 % interval on 100 images, 82.56 to 94.48, holds")
    assert lines[2].strip().startswith("robust: our 95 % interval on 100 images, 50.20 to 69.06, holds")
    assert set(lines) <= set(record_lines(record, reused=False))


def test_figures_outside_the_intervals_are_said_to_be(store: ResultStore) -> None:
    lines = published_lines(_record(store, stands=40, broken=30, clean_wrong=30))
    assert "60.42 to 78.11, does not hold the published 89.69 % (clean)" in lines[1]
    assert "does not hold the published 59.53 % (AutoAttack)" in lines[2]


def test_a_best_known_accuracy_below_autoattacks_is_compared_too(store: ResultStore) -> None:
    lines = published_lines(_record(store, stands=60, broken=30, clean_wrong=10, name="Bai2024MixedNUTS"))
    assert "best known" in lines[0]
    assert "(AutoAttack)" in lines[2]
    assert "(best known)" in lines[2]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dataset": "npz:x.npz"}, "this is on the test images of npz:x.npz"),
        ({"eps": "4/255"}, "this is at linf 4/255"),
        ({"norm": "l2"}, "this is at l2 8/255"),
    ],
)
def test_other_boards_are_not_compared(store: ResultStore, options: dict[str, str], reason: str) -> None:
    lines = published_lines(_record(store, stands=60, broken=30, clean_wrong=10, **options))  # type: ignore[arg-type]
    assert lines[1:] == [f"  not compared: {reason}"]


@pytest.mark.parametrize("options", [{"attacks": ("pgd-20",)}, {"partial": True}])
def test_robust_accuracy_is_compared_after_autoattack_only(store: ResultStore, options: dict[str, object]) -> None:
    lines = published_lines(_record(store, stands=60, broken=30, clean_wrong=10, **options))  # type: ignore[arg-type]
    assert "holds" in lines[1]
    assert "robust: not compared" in lines[2]


def test_clean_accuracy_alone_is_compared_too(store: ResultStore) -> None:
    lines = published_lines(_record(store, stands=90, broken=0, clean_wrong=10, attacks=("none",), eps="0"))
    assert "holds the published 89.69 % (clean)" in lines[1]
    assert "robust: not compared" in lines[2]


def test_other_models_have_no_published_lines(store: ResultStore) -> None:
    assert published_lines(make_record(store, outcome(stands=5, broken=5))) == []
    assert published_lines(_record(store, stands=60, broken=30, clean_wrong=10, name="nobody")) == []
