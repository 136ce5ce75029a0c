"""Whether the searches of an attack take their steps by compiled kernels or by torch: decided here alone."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from robustbench_gkl.attacks.search.slots import Space
from robustbench_gkl.attacks.specs.base import SearchSpec
from robustbench_gkl.core.errors import one_line

_LOGGER = logging.getLogger("robustbench_gkl")

LEAST_GAIN = 1.0
"""Seconds that the kernels must save: half a one goes into loading them, and on their first use some into compiling."""


def with_kernels(space: Space, attack: SearchSpec) -> Space:
    """Return ``space``, one slot a sample, with :mod:`robustbench_gkl.attacks.search.kernels` where they pay.

    That is on a CPU with numba, an extra, in searches that are long enough. The kernels are loaded here, so that
    processes forked afterwards have them.
    """
    calls = attack.calls(space.threat, num_classes=space.num_classes)
    if calls is None or space.device.type != "cpu":
        return space
    gain = attack.kernels_save * calls.forwards * math.prod(space.shape) * space.slots
    if gain < LEAST_GAIN:
        return space
    try:
        from robustbench_gkl.attacks.search import kernels
    except ImportError:  # it is not there, or switched off
        return space
    except Exception as error:  # a broken numba, or one that does not fit numpy, fails in any way
        _LOGGER.warning("numba does not work here (%s); %s takes its steps without", one_line(error), attack.name)
        return space
    return replace(space, kernels=kernels)
