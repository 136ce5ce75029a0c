"""Memory that is freed and asked for again stays in the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

ROUNDS = """
import resource, numpy as np
from robustbench_gkl.core.allocator import keep_freed_memory
kept = keep_freed_memory() if {asked} else False
for number in range(21):
    blocks = [np.ones(1 << 18) for _ in range(12)]  # 24 MiB, in 6,144 pages
    del blocks
    if number == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, asked: bool, **settings: str) -> tuple[str, int]:
    """Return whether memory is kept, and how many pages are mapped anew in twenty rounds."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", ROUNDS.format(asked=asked)]
    done = subprocess.run(command, env=inherited | settings, check=True, capture_output=True, text=True)
    kept, count = done.stdout.split()
    return kept, int(count)


def test_freed_memory_is_kept() -> None:
    kept, count = faults(asked=True)
    assert kept == "True"
    assert count < 6144
    assert faults(asked=False)[1] > 10 * 6144


def test_settings_of_the_environment_stay() -> None:
    kept, count = faults(asked=True, MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept == "False"
    assert count > 10 * 6144
