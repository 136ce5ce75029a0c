"""Locks between processes (flock): files that name their holder and are released when it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from robustbench_gkl.core.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What flock says on a file system that has no locks."""
_LOGGER = logging.getLogger("robustbench_gkl")
_COMMAND_LETTERS = 100
_LOOK = 0.25
"""Seconds between two tries to get a lock that another process holds."""
_TELL = 60.0
"""Seconds between two lines that say that it is waited for."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        host, pid: where it runs.
        command: its command line, shortened.
        since: when it took the lock: UTC, ISO 8601 to the second.
    """

    host: str
    pid: int
    command: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command}) since {self.since}"


class HeldError(UserError):
    """Another process holds the lock; ``holder`` is None where its file names none."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        self.holder = holder
        super().__init__(f"{path} is held by {holder or 'another process'}; wait for it or stop it")


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: Callable[[str], None] | None = None, keep: bool = False
) -> Iterator[int]:
    """Hold the lock ``path`` in the block and yield its file descriptor.

    The last holder removes the file. Where the file system has no locks, a warning is logged and the block entered.

    Args:
        path: the lock's file; its folder must exist.
        shared: hold it beside others that share it too.
        wait: wait for other holders; called with a line that says for whom, at once and then once a minute.
        keep: leave the file where it is. Needed where child processes inherit the descriptor, and with it the lock:
            they may outlive this process.

    Raises:
        HeldError: another process holds the lock, and ``wait`` is None.
        OSError: the file cannot be made.
    """
    told = float("-inf")
    while (descriptor := _acquire(path, shared=shared)) is None:
        holder = _holder(path)
        if wait is None:
            raise HeldError(path, holder)
        if time.monotonic() - told >= _TELL:
            told = time.monotonic()
            wait(f"waiting for {holder or 'another process'}, which holds {path}")
        time.sleep(_LOOK)
    try:
        _sign(descriptor)
        yield descriptor
    finally:
        try:
            if not keep and _flock(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path):
                path.unlink()
        finally:
            os.close(descriptor)


def _acquire(path: Path, *, shared: bool) -> int | None:
    """Return a descriptor of the lock's file that holds the lock, or None if another process does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = _flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            there = _is_at(descriptor, path)  # or the last holder has removed it since it was opened
        except BaseException:
            os.close(descriptor)
            raise
        if taken is None:
            _LOGGER.warning("%s: this file system has no locks; see to it that no other process writes there", path)
        elif not (taken and there):
            os.close(descriptor)
            if there:
                return None
            continue
        return descriptor


def _flock(descriptor: int, operation: int) -> bool | None:
    """Lock without waiting; return whether that could be done, or None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one that ``path`` names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write the holder into the lock's file."""
    program = Path(sys.argv[0])
    words = [program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:]]
    command = textwrap.shorten(" ".join(words), _COMMAND_LETTERS, placeholder=" ...")
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = json.dumps(asdict(Holder(socket.gethostname(), os.getpid(), command, since))).encode() + b"\n"
    with suppress(OSError):  # on a full disk the lock holds all the same
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))


def _alive(holder: Holder) -> bool:
    """Return False where it is known that the process has ended: of several that share a lock, the latest signs."""
    if holder.host != socket.gethostname():
        return True
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _holder(path: Path) -> Holder | None:
    """Return the holder named in the lock's file; None if there is none even after the moment that writing takes."""
    for _ in range(5):
        try:
            holder = Holder(**json.loads(path.read_bytes()))
            return holder if _alive(holder) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            time.sleep(0.02)
    return None
