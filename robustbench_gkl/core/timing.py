"""Timing of repeated work on a device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch


def time_once(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that one call of ``work`` takes; its work on ``device`` is waited for."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def time_calls(work: Callable[[], object], device: torch.device, *, seconds: float, fewest: int = 1) -> list[float]:
    """Return the seconds of each call of ``work``, after a first one that is not counted.

    A first call that takes ``seconds`` by itself is counted where one suffices: there is no time to warm up.

    Args:
        work: what is timed; its work on ``device`` is waited for.
        device: where it computes.
        seconds: how long to go on.
        fewest: calls to count at least.
    """
    first = time_once(work, device)
    if fewest == 1 and first >= seconds:
        return [first]
    times: list[float] = []
    while len(times) < fewest or sum(times) < seconds:
        times.append(time_once(work, device))
    return times


def processor_seconds() -> float:
    """Return the processor time of this process and of those of its children that have ended, system time included."""
    return sum(os.times()[:4])
