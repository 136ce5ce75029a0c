"""Locks between real processes."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from robustbench_gkl.core import lock
from robustbench_gkl.core.lock import HeldError, locked

REPOSITORY = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from robustbench_gkl.core.lock import locked
with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared", wait=lambda line: print(line, flush=True)):
    print("holds", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""

COUNT = """
import sys
from pathlib import Path
from robustbench_gkl.core.lock import locked
path, number = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(200):
    with locked(path, wait=lambda line: None):
        number.write_text(str(int(number.read_text()) + 1))
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def holder(path: Path, kind: str = "exclusive") -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the lock in the block, unless it is ended before."""
    with start(HOLD, path, kind) as process:
        assert line_of(process) == "holds"
        yield process
        release(process)


def release(process: subprocess.Popen[str]) -> None:
    """Let a holder go and wait until it has."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def test_a_lock_keeps_others_out_and_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        for shared in (False, True):
            with (
                pytest.raises(HeldError, match=rf"lock is held by process {process.pid} on ") as raised,
                locked(path, shared=shared),
            ):
                pass
            assert "\n" not in str(raised.value)
        found = json.loads(path.read_bytes())
        assert raised.value.holder == lock.Holder(**found)
        assert (found["pid"], found["host"]) == (process.pid, os.uname().nodename)
        assert found["command"].startswith("-c ")
        assert found["since"].endswith("+00:00")
    assert not list(tmp_path.iterdir()), "the last holder removes the file"
    with locked(path) as descriptor:
        assert not os.get_inheritable(descriptor)
        with pytest.raises(HeldError, match=f"process {os.getpid()} on "), locked(path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert path.exists()
        with locked(path):
            assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert not path.exists()


def test_a_shared_lock_is_shared_and_an_exclusive_one_waits_for_all(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path, "shared") as first, holder(path, "shared") as second:
        with locked(path, shared=True):
            pass
        assert path.exists(), "two hold it still"
        with pytest.raises(HeldError), locked(path):
            pass
        with start(HOLD, path, "exclusive") as third:
            assert line_of(third).startswith("waiting for process ")
            release(first)
            with pytest.raises(HeldError), locked(path):
                pass
            release(second)
            assert line_of(third) == "holds"
            release(third)
    assert not list(tmp_path.iterdir())


def test_waiting_can_be_interrupted(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process, start(HOLD, tmp_path / "lock", "shared") as waiting:
        assert line_of(waiting).startswith(f"waiting for process {process.pid} on ")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait() != 0


def test_one_line_a_minute_says_for_whom_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_TELL", 0.6)
    lines: list[str] = []
    with holder(tmp_path / "lock") as process:

        def count(line: str) -> None:
            lines.append(line)
            if len(lines) == 3:
                release(process)

        with locked(tmp_path / "lock", wait=count):
            assert len(lines) == 3
    assert all(f"process {process.pid} on " in line for line in lines)


def test_two_processes_that_take_turns_lose_nothing(tmp_path: Path) -> None:
    """The file is removed and made anew all the time: a process that locks a removed one must see that."""
    number = tmp_path / "number"
    number.write_text("0")
    processes = [start(COUNT, tmp_path / "lock", number) for _ in range(3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert number.read_text() == "600"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_removed_between_its_opening_and_its_locking_is_opened_anew(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    inodes: list[int] = []

    def remove_first(descriptor: int, operation: int, flock: Callable[[int, int], None] = fcntl.flock) -> None:
        if not inodes:  # as its last holder does just then
            path.unlink()
        inodes.append(os.fstat(descriptor).st_ino)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(path, shared=shared) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        assert len(inodes) == 2


def test_a_kept_file_stays_and_an_inherited_lock_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, keep=True) as descriptor:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    with child:
        with pytest.raises(HeldError), locked(path):
            pass
        child.communicate()
    with locked(path, keep=True):
        pass
    assert path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_without_locks_a_warning_says_so(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "robustbench_gkl"), locked(tmp_path / "lock"):
        pass
    (record,) = caplog.records
    assert "this file system has no locks" in record.getMessage()
    assert (tmp_path / "lock").exists(), "what is not held is not removed"


def test_what_else_goes_wrong_is_raised(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError), locked(tmp_path / "none" / "lock"):
        pass
    for content in (b"", b"[]", b"{", b'{"pid": 3}'):
        with holder(tmp_path / "lock"):
            (tmp_path / "lock").write_bytes(content)
            with pytest.raises(HeldError, match="is held by another process; wait"), locked(tmp_path / "lock"):
                pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock", wait=order.append):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path / "lock"):
        thread.start()
        while not order:
            pass
        order.append("first")
    thread.join()
    assert order[1:] == ["first", "second"]
