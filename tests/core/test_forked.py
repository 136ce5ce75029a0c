"""Forked processes: what they do is seen, what happens to them is told, and none is left."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.forked import Link, can_fork, run_forked
from robustbench_gkl.core.timing import processor_seconds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no processes are forked elsewhere")

SLEEPERS = """
import os, time
from robustbench_gkl.core.forked import run_forked

def work(link):
    link.tell(os.getpid())
    time.sleep(600)

run_forked([work, work], serve=lambda number, pid: print(pid, flush=True), idle=lambda: None, every=0.05)
"""


def run(*works: Any, serve: Any = lambda number, message: None) -> list[Any] | None:
    return run_forked(works, serve=serve, idle=lambda: None, every=0.05)


def gone(pid: int) -> bool:
    """Return whether the process has ended, within half a minute."""
    for _ in range(600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def sleep(link: Link) -> None:
    link.tell(os.getpid())
    time.sleep(600)


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """A list for the children's numbers; they are to be gone at the end."""
    found: list[int] = []
    yield found
    assert found
    assert all(map(gone, found))


def test_messages_answers_and_results() -> None:
    told: list[tuple[int, int]] = []

    def work(link: Link) -> int:
        told.append((9, 9))  # in the child alone
        link.tell(3)
        return int(link.ask(4))

    def serve(number: int, message: int) -> int:
        told.append((number, message))
        return 10 * message + number

    assert run(work, work, serve=serve) == [40, 41]
    assert sorted(told) == [(0, 3), (0, 4), (1, 3), (1, 4)]


def test_the_processor_time_of_children_counts() -> None:
    def work(link: Link) -> float:
        began = time.process_time()
        sum(range(3_000_000))
        return time.process_time() - began

    began = processor_seconds()
    spent = run(work, work)
    assert spent is not None
    assert processor_seconds() - began > sum(spent) - 0.05  # it is counted in hundredths of a second


def test_autograd_works_in_a_child_of_a_process_that_has_used_it_with_several_threads() -> None:
    def gradient() -> list[float]:
        points = torch.linspace(0, 1, 300_000).requires_grad_()
        return torch.autograd.grad(points.square().sum(), points)[0][-2:].tolist()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = gradient()
        assert run(lambda link: (gradient(), torch.get_num_threads())) == [(expected, 1)]
    finally:
        torch.set_num_threads(before)


class OddError(Exception):
    """One that cannot be made again from what it says."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (UserError("bad net"), UserError, "bad net"),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
        (OddError(1, 2), RuntimeError, "OddError: 1 and 2"),
    ],
)
def test_an_error_in_one_ends_all(pids: list[int], raised: BaseException, kind: Any, says: str) -> None:
    def fail(link: Link) -> None:
        link.ask(os.getpid())
        raise raised

    with pytest.raises(kind, match=says) as caught:
        run(sleep, fail, serve=lambda number, pid: pids.append(pid))
    assert "raise raised" in str(caught.value.__cause__)


def test_a_killed_child_ends_all(pids: list[int]) -> None:
    def serve(number: int, pid: int) -> None:
        pids.append(pid)
        if len(pids) == 2:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="killed by signal 9, as the system does where memory runs out"):
        run(sleep, sleep, serve=serve)


def test_an_interruption_ends_all(pids: list[int]) -> None:
    def serve(number: int, pid: int) -> None:
        pids.append(pid)
        if len(pids) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sleep, sleep, serve=serve)


def test_a_second_interruption_ends_all_too(pids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(number: int, pid: int) -> None:
        def interrupted(*arguments: Any) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt("second")

        pids.append(pid)
        monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
        raise KeyboardInterrupt("first")

    with pytest.raises(KeyboardInterrupt, match="second"):
        run(sleep, sleep, serve=serve)
    with pytest.raises(ChildProcessError):  # there is none to wait for
        os.waitpid(-1, os.WNOHANG)


@contextlib.contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_child_ignores_what_its_parent_handles(pids: list[int], number: signal.Signals) -> None:
    def work(link: Link) -> int:
        link.tell(os.getpid())
        os.kill(os.getpid(), number)
        return len(caught)

    caught: list[int] = []
    with handled(number, lambda number, frame: caught.append(number)):
        assert run(work, serve=lambda number, pid: pids.append(pid)) == [0]
        os.kill(os.getpid(), number)
    assert caught == [number]


def wait_for_all(number: int, frame: object) -> None:
    """What some programs do when a child has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.mark.parametrize("handler", [signal.SIG_IGN, wait_for_all])
def test_another_may_wait_for_the_children(pids: list[int], handler: Any) -> None:
    def die(link: Link) -> None:
        link.ask(os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    with handled(signal.SIGCHLD, handler):
        assert run(lambda link: 1, lambda link: 2) == [1, 2]
        with pytest.raises(ChildProcessError, match=r"a process of the search (is gone|was killed by signal 9)"):
            run(sleep, die, serve=lambda number, pid: pids.append(pid))


def test_garbage_of_the_parent_is_not_collected_in_a_child() -> None:
    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            ends.append(os.getpid())

    ends: list[int] = []
    gc.collect()
    with no_collection():
        Garbage()
        assert run(lambda link: (gc.collect(), len(ends))[1]) == [0]
    gc.collect()
    assert ends == [os.getpid()]


def test_children_die_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPERS], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    assert all(map(gone, children))


def test_none_where_the_system_makes_no_more(monkeypatch: pytest.MonkeyPatch, pids: list[int]) -> None:
    fork = os.fork

    def once() -> int:
        if pids:
            raise BlockingIOError
        pids.append(fork())
        return pids[-1]

    monkeypatch.setattr(os, "fork", once)
    assert run(sleep, sleep) is None


def test_no_fork_beside_another_thread() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert not can_fork()
    finally:
        over.set()
        thread.join()
