"""Stopping in good order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(*, second_at_once: bool = True) -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM, SIGHUP and Ctrl-C in the block; yields a function that returns True once one came.

    SIGHUP comes when the terminal goes away; under ``nohup`` it goes on being ignored.

    Args:
        second_at_once: raise KeyboardInterrupt at the second signal. Under torchrun one Ctrl-C comes twice, from the
            terminal and from torchrun, which itself kills what does not end in time.
    """
    stopping: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        if stopping and second_at_once:
            raise KeyboardInterrupt
        stopping.append(number)

    caught = [signal.SIGTERM, signal.SIGINT]
    caught += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    previous = {number: signal.signal(number, catch) for number in caught}
    try:
        yield lambda: bool(stopping)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
