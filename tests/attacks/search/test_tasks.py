"""Runs of a sample that are under way at once, and the order in which their ends count."""

from __future__ import annotations

from robustbench_gkl.attacks.search.tasks import InOrder, Task, Waiting


def tasks(*pairs: tuple[int, int]) -> list[Task]:
    return [Task(run, position) for run, position in pairs]


def test_what_stands_a_run_has_all_others_given_out_at_once_but_no_first_run_waits_for_them() -> None:
    source = Waiting(tasks((0, 0), (0, 1), (0, 2)), runs=4, at_once=True)
    assert source.take(2, 0) == tasks((0, 0), (0, 1))
    source.settle(tasks((0, 0)), [])
    assert source.take(9, 1) == tasks((0, 2), (1, 0), (2, 0), (3, 0))
    source.settle(tasks((1, 0)), [])
    assert source.take(9, 4) == []


def test_one_after_the_other_where_that_is_asked_for() -> None:
    source = Waiting(tasks((0, 0)), runs=3)
    assert source.take(9, 0) == tasks((0, 0))
    source.settle(tasks((0, 0)), [])
    assert source.take(9, 0) == tasks((1, 0))


def test_runs_of_a_fallen_sample_that_wait_are_given_to_nobody() -> None:
    source = Waiting(tasks((0, 0), (0, 1)), runs=3, at_once=True)
    source.settle(source.take(2, 0), [])
    assert source.take(1, 0) == tasks((1, 0))
    source.settle([], tasks((1, 0)))
    assert source.take(9, 0) == tasks((1, 1), (2, 1))


def test_it_is_exhausted_when_nothing_is_under_way_anywhere() -> None:
    source = Waiting(tasks((0, 0)), runs=2, at_once=True)
    taken = source.take(9, 0)
    assert not source.exhausted
    source.settle(taken, [])
    assert not source.exhausted
    source.settle([], source.take(9, 0))
    assert source.exhausted


class TestInOrder:
    def test_a_run_counts_when_all_before_it_have_stood(self) -> None:
        ends = InOrder({0: 0, 1: 1})
        assert ends.sorted(tasks((2, 0), (1, 0), (1, 1)), []) == (tasks((1, 1)), [])
        assert ends.sorted(tasks((0, 0)), []) == (tasks((0, 0), (1, 0), (2, 0)), [])

    def test_a_sample_falls_to_its_first_run_that_breaks_it(self) -> None:
        ends = InOrder({0: 0})
        assert ends.sorted([], tasks((3, 0))) == ([], [])
        assert ends.sorted(tasks((0, 0)), tasks((2, 0))) == (tasks((0, 0)), [])
        assert ends.sorted(tasks((1, 0)), []) == (tasks((1, 0)), tasks((2, 0)))

    def test_what_ends_after_a_sample_has_fallen_does_not_count(self) -> None:
        ends = InOrder({0: 0})
        assert ends.sorted([], tasks((0, 0))) == ([], tasks((0, 0)))
        assert ends.sorted(tasks((1, 0)), tasks((2, 0))) == ([], [])

    def test_falls_that_wait_for_earlier_runs_are_told_of(self) -> None:
        ends = InOrder({0: 0, 1: 0, 2: 0})
        ends.sorted(tasks((2, 0), (1, 1), (0, 2)), tasks((4, 0), (3, 0), (1, 2)))
        assert ends.early() == tasks((3, 0))
