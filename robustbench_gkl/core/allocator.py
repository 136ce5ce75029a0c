"""The C library's allocator, which by default gives freed memory back to the system and asks for it again."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_KEPT = 1 << 28
"""Bytes that may stay free in the process, and the largest block that is kept."""
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Let the process keep up to 256 MiB of what it frees, from now on; return whether that was possible.

    A network's activations live for a millisecond. Where each is mapped anew, the system zeroes its pages and takes
    them back: up to a third of the time of a small network on a CPU. Only glibc is asked, and not where the
    environment has settings of its own.
    """
    if any(os.environ.get(name) for name in _OWN_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no library of the process
        return False
    return all(mallopt(option, _KEPT) for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
