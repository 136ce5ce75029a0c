"""Work done in processes forked from this one: they see what it holds, have an interpreter each, and end with it.

A fork copies one thread. What another thread holds at that moment, such as a lock, is held for ever in the child, and
an accelerator or a pool of threads does not work there. So :func:`can_fork` says where it is done, and each child keeps
to one of torch's threads. As the workers of torch's ``DataLoader`` do, it runs autograd on the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import torch

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl.h
_TOLD, _ASKED, _DONE, _FAILED = range(4)
_SIGNALS = signal.valid_signals()


def can_fork() -> bool:
    """Return whether children of this process can be relied on.

    That is on Linux, which ends them with their parent; where no other thread of Python runs, as in a notebook or for
    a display that draws itself; and without any accelerator, for each of which autograd has a thread.
    """
    accelerator: Any = getattr(torch, "accelerator", torch.cuda)
    alone = threading.active_count() == 1 and threading.current_thread() is threading.main_thread()
    return sys.platform == "linux" and alone and accelerator.device_count() == 0


class Link:
    """A child's end of the connection with its parent; tensors are sent by value."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, message: object) -> None:
        """Send ``message``, and do not wait."""
        self._connection.send_bytes(pickle.dumps((_TOLD, message)))

    def ask(self, message: object) -> Any:
        """Send ``message`` and return the answer."""
        self._connection.send_bytes(pickle.dumps((_ASKED, message)))
        return pickle.loads(self._connection.recv_bytes())


Work = Callable[[Link], object]


def run_forked(
    works: Sequence[Work],
    *,
    serve: Callable[[int, Any], object],
    idle: Callable[[], object],
    every: float,
) -> list[Any] | None:
    """Do ``works`` at once, each in a child; return what they return, or None if this system makes no more processes.

    Whatever ends the call, no child is left. A child ignores the signals that have a handler in Python, such as Ctrl-C:
    sent to the group, they come here too.

    Args:
        works: their messages, results and errors must be picklable.
        serve: gets the number of a child and its message; what it returns is the answer, if the child asked.
        idle: called between messages, every ``every`` seconds.
        every: at most so many seconds pass between two calls of ``idle``, unless ``serve`` takes longer.

    Raises:
        ChildProcessError: a child was killed.
        Exception: what a child raised, with its traceback as the cause.
    """
    children: list[_Child] = []
    try:
        try:
            with _signals_held_back() as mask:
                for work in works:
                    children.append(_Child(work, [child.connection for child in children], mask))
        except OSError:
            return None
        return _served(children, serve, idle, every)
    finally:
        try:
            _end(children)
        except BaseException:  # a second Ctrl-C, before signals were held back
            _end(children)
            raise


def _end(children: Sequence[_Child]) -> None:
    """Kill those that still run; may be called again."""
    with _signals_held_back():
        for child in children:
            child.kill()
        for child in children:
            child.reap()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[set[int]]:
    """Hold back all signals to this process until the end of the block; yields the mask of signals before."""
    mask: set[int] = set(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _served(
    children: Sequence[_Child], serve: Callable[[int, Any], object], idle: Callable[[], object], every: float
) -> list[Any]:
    """Answer ``children`` until all are done; return their results."""
    numbers = {child.connection: number for number, child in enumerate(children)}
    results: list[Any] = [None] * len(children)
    while numbers:
        for connection in wait(list(numbers), timeout=every):
            assert isinstance(connection, Connection)
            number = numbers[connection]
            try:
                received = connection.recv_bytes()
            except (EOFError, OSError):  # OSError in the middle of a message
                raise children[number].death() from None
            kind, message = pickle.loads(received)
            if kind == _FAILED:
                error, told = message
                raise error from RuntimeError(f"in a process of the search:\n{told}")
            if kind == _DONE:
                results[number] = message
                del numbers[connection]
                children[number].reap()
                continue
            answer = serve(number, message)
            if kind == _ASKED:
                with contextlib.suppress(ConnectionError):  # it is gone, which is seen when it is next read from
                    connection.send_bytes(pickle.dumps(answer))
        idle()
    return results


class _Child:
    """A forked process that works; the parent's view of it."""

    def __init__(self, work: Work, siblings: Sequence[Connection], mask: set[int]) -> None:
        self.connection, theirs = Pipe()
        self._ended = False
        self._code: int | None = None
        _flush()  # what waits to be written would be written by the child too
        parent = os.getpid()
        with warnings.catch_warnings():
            # Since 3.12 Python warns wherever there is any thread, torch's among them: see can_fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _live(work, theirs, [self.connection, *siblings], parent, mask)
        theirs.close()

    def kill(self) -> None:
        """End the process, if it has not ended."""
        self.connection.close()
        if not self._ended:
            with contextlib.suppress(ProcessLookupError):  # it was waited for elsewhere, see reap
                os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Wait for its end; return the exit code, below 0 for a signal, or None if this process was not to know it.

        That is where it ignores SIGCHLD, or where a handler of its own waits for all children.
        """
        if not self._ended:
            with contextlib.suppress(ChildProcessError):
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._ended = True
        return self._code

    def death(self) -> ChildProcessError:
        """Return the error for a child that is gone without a word."""
        code = self.reap()
        if code is None:
            return ChildProcessError("a process of the search is gone")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        hint = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
        return ChildProcessError(f"a process of the search {how}{hint}")


def _live(work: Work, connection: Connection, inherited: Sequence[Connection], parent: int, mask: set[int]) -> NoReturn:
    """Do ``work`` in a child, and end it: nothing of what the parent would do afterwards is done here."""
    code = 1
    try:
        gc.freeze()  # what the parent left as garbage is not collected here too, nor are the pages of the rest copied
        for number in filter(_is_handled, _SIGNALS):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() == parent:  # else it was gone before
            for end in inherited:
                end.close()  # so that a sibling sees when the parent is gone
            torch.set_num_threads(1)
            connection.send_bytes(_outcome(work, Link(connection)))
            _flush()
            code = 0
    finally:
        os._exit(code)


def _is_handled(number: int) -> bool:
    """Return whether a signal has a handler in Python."""
    return callable(signal.getsignal(number))


def _flush() -> None:
    """Write what waits to be written; there may be no such stream, or one that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()


def _outcome(work: Work, link: Link) -> bytes:
    """Do ``work``; return the last message of its child."""
    try:
        return pickle.dumps((_DONE, work(link)))
    except BaseException as error:
        told = traceback.format_exc()
        with contextlib.suppress(Exception):
            message = pickle.dumps((_FAILED, (error, told)))
            pickle.loads(message)
            return message
        return pickle.dumps((_FAILED, (RuntimeError(f"{type(error).__name__}: {error}"), told)))
