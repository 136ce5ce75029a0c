"""The machine's processor, as the system names it, and the names of devices. Imports no torch."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from robustbench_gkl.core.errors import UserError


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device_name(name: str) -> None:
    """Check that a device is called as one is.

    Raises:
        UserError: it is none of ``auto``, ``cpu``, ``cuda`` and ``cuda:i``.
    """
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name) is None:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:i, got {name!r}")
