"""Stopping in good order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM, SIGHUP or Ctrl-C ask for a stop; yields what tells whether it was. A second one is not waited for.

    SIGHUP comes when the terminal goes away; under ``nohup`` it goes on being ignored.
    """
    stopping: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if stopping:
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
