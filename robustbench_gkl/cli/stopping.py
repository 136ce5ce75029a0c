"""Stopping in good order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(*, second_at_once: bool = True) -> Iterator[Callable[[], bool]]:
    """Let SIGTERM, SIGHUP or Ctrl-C ask for a stop; yields what tells whether it was.

    SIGHUP comes when the terminal goes away; under ``nohup`` it goes on being ignored.

    Args:
        second_at_once: do not wait if it is asked a second time. Under torchrun one Ctrl-C comes twice, from the
            terminal and from torchrun, which itself kills what does not end in time.
    """
    stopping: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if stopping and second_at_once:
            raise KeyboardInterrupt
        stopping.append(number)

    heard = [signal.SIGTERM, signal.SIGINT]
    heard += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    previous = {number: signal.signal(number, ask) for number in heard}
    try:
        yield lambda: bool(stopping)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
