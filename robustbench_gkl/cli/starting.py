"""The start of a command, which is nearly all imports."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def starting() -> Iterator[None]:
    """Collect no garbage in the block, the first in a process to import torch, nor ever look at what it leaves.

    What a module makes stays: to look through it for garbage again and again takes a tenth of the start. Later blocks,
    such as those of a second command in one process, change nothing.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
