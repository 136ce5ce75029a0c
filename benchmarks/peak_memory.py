"""How much memory torch holds at most while a function runs, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_memory(function: Callable[[], object]) -> int:
    """Return the peak of what torch holds on the CPU beyond what it held before, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
